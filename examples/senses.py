"""Three encoders that others trained, composed from five pairs a thing: what does a spoken word look like?

Needs the extra: pip install "serket-perception[senses]". Run it: python examples/senses.py
"""

import numpy as np

import serket


def main() -> None:
    model = serket.fit("senses", seed=0)  # embeds what it has not embedded before, and keeps it
    data = model.dataset()
    test = data.test[::8]
    named = model.generate("name", data, observe=["sound"], rows=test).probs.argmax(-1).numpy().ravel()
    print(f"{len(test)} words by new voices: {np.mean(named == data.label[test]):.2f} named rightly, chance is 0.05")
    found = model.retrieve("image", data, data, top=1, observe=["sound"], rows=test, among_rows=data.train)
    shown = data.label[found.places.numpy()[:, 0]]
    print(f"{np.mean(shown == data.label[test]):.2f} call up a stored picture of the thing that was said")


if __name__ == "__main__":
    main()
