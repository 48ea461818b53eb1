"""`loraworkbench new`: a dry run writes nothing and shows rows; a share of unseen rows; columns that are not detected."""

from __future__ import annotations

from pathlib import Path

from engine import spec
from tests.engine.commandline import Call, document, pairs, write_rows


def test_a_dry_run_shows_the_first_rows_and_writes_nothing(call: Call) -> None:
    write_rows(Path("faq.jsonl"), [*pairs(2), {"question": "x" * 1000, "answer": ["not", "text"]}])
    said = document(call("new", "faq", "--data", "faq.jsonl", "--dry-run", "--json"))
    assert (said["written"], said["shape"], len(said["sample"])) == (False, "prompt_completion", 2)
    assert set(said["sample"][0]) == {"question", "answer"}
    assert not Path("projects/faq").exists()
    _, out, _ = call("new", "faq", "--data", "faq.jsonl", "--dry-run")
    assert "would be written: projects/faq/project.toml" in out


def test_a_share_of_the_rows_is_kept_unseen(call: Call) -> None:
    write_rows(Path("faq.jsonl"), pairs(3))
    assert call("new", "faq", "--data", "faq.jsonl", "--fraction", "0.25")[0] == 0
    assert spec.load(Path("projects/faq/project.toml")).data.test_fraction == 0.25
    code = call("new", "other", "--data", "faq.jsonl", "--test", "faq.jsonl", "--fraction", "0.25", "--json")
    assert "either --test or --fraction" in document(code, 2)["error"]["problem"]
    assert not Path("projects/other").exists()


def test_columns_that_are_not_detected_are_named(call: Call) -> None:
    write_rows(Path("mail.jsonl"), [{"message": f"m{i}", "reply": f"r{i}"} for i in range(3)])
    unclear = document(call("new", "mail", "--data", "mail.jsonl", "--dry-run", "--json"))
    assert unclear["shape"] is None and set(unclear["sample"][0]) == {"message", "reply"}
    named = ("--prompt-column", "message", "--completion-column", "reply")
    said = document(call("new", "mail", "--data", "mail.jsonl", *named, "--json"))
    assert said["shape"] == "prompt_completion" and said["written"]
    data = spec.load(Path("projects/mail/project.toml")).data
    assert (data.prompt_column, data.completion_column) == ("message", "reply")
