"""The suite outside the repository: what the documents print is green, and what is wrong is named."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from serket import register
from serket.errors import GraphError
from serket.modules.table import Table
from serket.testing import Case, child, normal, parent, whole
from serket.testing import infer as suite

ROOT = Path(__file__).parents[2]
SENSOR, _, TEST = re.findall(r"```python\n(.*?)```", (ROOT / "docs/writing-a-module.md").read_text(), re.DOTALL)


def run(folder, module, *options, test=TEST):
    (folder / "thermometer.py").write_text(module)
    (folder / "test_thermometer.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_pair_in_the_documents_is_green(tmp_path):
    status, out = run(tmp_path, SENSOR, "-W", "error")
    assert status == 0 and int(out.split(" passed")[0].split()[-1]) >= 10, out


def test_other_ports_than_those_of_the_class_are_named(tmp_path):
    status, out = run(tmp_path, SENSOR.replace('"temperature"', '"latent"'))
    assert (
        status != 0 and "latent (parent, gaussian, size 1)" in out and "temperature (parent, gaussian, size 1)" in out
    )


def test_what_is_owed_and_how_to_mend_it_is_said(tmp_path):
    module = SENSOR.replace("precision).mask(evidence.present)", "precision)").replace(
        "message for port in asked", "message * above for port in asked"
    )
    status, out = run(tmp_path, module, "-k", "echo or nothing_in")
    assert status == 1 and "2 failed" in out, out
    assert "a row without evidence must reply vacuous" in out and "use .mask(evidence.present)" in out
    assert "must not depend on the inbox at temperature" in out and "tensor([" not in out, out


@pytest.mark.parametrize("wrong", ["message", "evidence", "predict"])
def test_message_evidence_and_prediction_are_of_one_factor(wrong):
    def table(name):
        return Case("module", name, "one", {"given[0]": parent(2, "categorical")}, {"values": 0.9}, whole(1, 2))

    class Bent(Table):
        def infer(self, *args, **kwargs):
            reply = super().infer(*args, **kwargs)
            louder = {port: one**1.5 for port, one in reply.messages.items()}
            return (
                replace(reply, messages=louder)
                if wrong == "message"
                else (replace(reply, log_evidence=reply.log_evidence + 0.1) if wrong == "evidence" else reply)
            )

        def predict(self, inbox, *, generator):
            inbox = {port: one**0.5 for port, one in inbox.items()} if wrong == "predict" else inbox
            return super().predict(inbox, generator=generator)

    register(f"bent_{wrong}")(Bent)
    kept = suite.test_evidence_is_the_integral_of_its_messages, suite.test_evidence_is_what_is_predicted
    for test in kept:
        test(table("table"))
    with pytest.raises(AssertionError, match="one factor"):
        kept[wrong != "message"](table(f"bent_{wrong}"))


@pytest.mark.parametrize(
    "ports", [{"latent": child(2)}, {"latent": parent(2), "other": parent(2)}, {"latent[0]": parent(2)}, {}]
)
def test_a_case_has_the_ports_of_its_class(ports):
    with pytest.raises(GraphError) as caught:
        Case("module", "vae", "wrong", ports, {"hidden": [4]}, normal(2)).fresh()
    assert "latent (parent, gaussian)" in caught.value.expected and caught.value.fix
