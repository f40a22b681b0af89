"""Two sensors on one position: what each is worth, and what happens when one is missing or trusted less.

Run it: python examples/two_sensors.py
"""

import copy

import numpy as np

import serket

GRAPH = {
    "serket": 1,
    "variables": {"x": {"family": "gaussian", "size": 2, "prior": {"mean": [0, 0], "covariance": [[4, 0], [0, 4]]}}},
    "modules": {
        "gps": {"type": "linear_gaussian", "ports": {"given": "x"}, "data": "gps",
                "matrix": [[1, 0], [0, 1]], "noise": [[1, 0], [0, 1]]},
        "compass": {"type": "linear_gaussian", "ports": {"given": "x"}, "data": "compass",
                    "matrix": [[1, -1]], "noise": [[0.1]]},
    },
}  # fmt: skip


def main() -> None:
    model = serket.fit(
        GRAPH, {"gps": np.zeros((1, 2)), "compass": np.zeros((1, 1))}, test_fraction=0
    )  # nothing to learn
    readings = {
        "gps": np.array([[1.0, 2.0], [1.0, 2.0], [np.nan, np.nan]]),
        "compass": np.array([[-1.0], [5.0], [-1.0]]),
    }
    beliefs = model.infer(readings)
    for row, story in enumerate(["both agree", "the compass contradicts the gps", "no gps"]):
        x, spread = beliefs["x"].mean()[row], beliefs["x"].variance()[row].sqrt()
        print(
            f"{story:32}: x = {x.numpy().round(2)} +- {spread.numpy().round(2)}, conflict {beliefs.conflict[row]:.1f}"
        )

    doubted = copy.deepcopy(GRAPH)
    doubted["modules"]["compass"]["trust"] = 0.1
    x = serket.fit(doubted, {"gps": np.zeros((1, 2)), "compass": np.zeros((1, 1))}, test_fraction=0).infer(readings)[
        "x"
    ]
    print(f"{'the compass trusted a tenth':32}: x = {x.mean()[1].numpy().round(2)}")


if __name__ == "__main__":
    main()
