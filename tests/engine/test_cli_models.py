"""`generate` and `doctor`: the verbs that load something."""

from __future__ import annotations

import importlib.util
import io
import shutil
import sys
from pathlib import Path

import pytest

from tests.engine import tiny
from tests.engine.commandline import Call, document, write_project

# --- generate, doctor


@pytest.fixture(scope="module")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_tiny(tmp_path_factory.mktemp("model") / "llama", "llama")


@pytest.fixture(scope="module")
def two_adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders 0001 with an adapter that does nothing and 0002 with one that does something."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("runs")
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"])
    made = get_peft_model(tiny.tiny_model("llama"), config)
    made.save_pretrained(str(folder / "0001" / "adapter"))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.fill_(1.0)
    made.save_pretrained(str(folder / "0002" / "adapter"))
    return folder


@pytest.fixture
def talking(call: Call, small_base: Path, two_adapters: Path) -> Path:
    """A project on a tiny base with two runs."""
    lines = (
        f'[model]\nbase = "{small_base}"\nquantization = "none"\ndtype = "float32"\n[generate]\nmax_new_tokens = 5\n'
    )
    write_project("talk", lines)
    shutil.copytree(two_adapters, "projects/talk/runs")
    return Path("projects/talk")


@pytest.mark.usefixtures("talking")
def test_generate_answers_with_proof(call: Call) -> None:
    asked = ["--prompt", "The train\x1b[2J", "--prompt", "Anna", "--adapter", "1", "--adapter", "2"]
    found = document(call("generate", "talk", *asked, "--json"))["prompts"]
    assert [p["prompt"] for p in found] == ["The train\x1b[2J", "Anna"]
    base, idle, active = found[1]["answers"]
    assert [a["model"] for a in (base, idle, active)] == ["base", "talk-0001", "talk-0002"]
    assert base["adapter_sha256"] is None and len(active["adapter_sha256"]) == 64
    assert not idle["changed"] and idle["text"] == base["text"] and idle["kl"] == 0.0
    assert idle["proof"].startswith("this adapter changed nothing") and base["proof"] is None
    assert active["adapter_short"] == active["adapter_sha256"][:8] and "KL" in active["proof"]
    assert active["changed"] and active["largest_logit_difference"] > 0 and active["kl"] > 0
    code, out, _ = call("generate", "talk", *asked)
    assert code == 0 and "\x1b" not in out and "talk-0001: this adapter changed nothing" in out


def test_generate_takes_prompts_from_stdin_and_the_project(
    call: Call, talking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    arguments = ["generate", "talk", "--no-base", "--max-new-tokens", "2", "--json"]
    found = document(call(*arguments, "--prompt", "-"))["prompts"]
    assert [p["prompt"] for p in found] == ["one", "two"]
    assert [a["model"] for a in found[0]["answers"]] == ["talk-0002"], "the newest adapter where none is named"
    with (talking / "project.toml").open("a") as file:
        file.write('prompts = ["from the file"]\n')
    assert document(call(*arguments))["prompts"][0]["prompt"] == "from the file"


@pytest.mark.usefixtures("talking")
@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="the package is here")
def test_an_attention_whose_package_is_not_here(call: Call) -> None:
    code, _, err = call("generate", "talk", "--prompt", "a", "--set", "model.attention=flash_attention_2")
    assert code == 2 and 'model.attention = "flash_attention_2" does not work here' in err and 'use "auto"' in err


@pytest.mark.usefixtures("demo")
def test_generate_without_a_prompt_or_an_adapter(call: Call) -> None:
    assert document(call("generate", "demo", "--json"), 2)["error"]["problem"] == "no prompt"
    refused = document(call("generate", "demo", "--prompt", "x", "--no-base", "--json"), 2)
    assert refused["error"]["problem"] == "this project has no adapter yet"


def test_doctor_tries_what_matters(call: Call) -> None:
    found = document(call("doctor", "--json"))
    assert found["ok"] is True
    subjects = [check["subject"] for check in found["checks"]]
    assert {"python", "torch", "cpu", "memory", "disk", "torch build", "4 bits", "hub", "terminal"} <= set(subjects)
    by_name = {check["subject"]: check for check in found["checks"]}
    assert by_name["4 bits"]["level"] == "ok" and "HF_HUB_OFFLINE" in by_name["hub"]["text"]


def test_doctor_judges_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.verbs import doctor

    wanted = ["numpy>=1", "pytest<0.1", "no-such-thing>=2", 'gone>=1; python_version < "3"', 'x; extra == "test"']
    monkeypatch.setattr(doctor, "_requirements", lambda: wanted)
    found = {f.subject: f for f in doctor.versions()}
    assert [(n, f.level) for n, f in found.items()][1:] == [
        ("numpy", "ok"),
        ("pytest", "warning"),
        ("no-such-thing", "problem"),
    ]
    assert found["no-such-thing"].remedy == "pip install 'no-such-thing>=2'"


def test_doctor_says_when_four_bits_are_computed_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.verbs import doctor

    monkeypatch.setattr(doctor, "_nf4_errors", lambda device: (1.4, 0.0))
    assert doctor.four_bit().level == "problem"


def test_an_unreachable_hub_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.verbs import doctor

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    finding = doctor.hub()
    assert finding.level == "ok" and "not reached" in finding.text
