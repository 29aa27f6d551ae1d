"""Sweeps as batches in real kernels: what is said, what is kept over a restart, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.jobs.test_job import eventually
from tests.support.kernels import Kernel, kernel
from tests.support.scripted import Script, ScriptedServer

SWEEP = "%%bgresponse -o study --each questions --batch\nSay {{ item }}"
PRICES = '%config BgMagics.prices = {"gpt-5.2": {"input": 1.25, "output": 10}}'


def test_what_can_not_go_in_a_batch_is_one_line(in_kernel: Kernel, server: ScriptedServer) -> None:
    """What a batch can't have is one line that says what to leave out, and nothing is sent; a default
    that a batch can't have gives way."""
    in_kernel.ok("questions = ['a', 'b']")
    in_kernel.ok("def look(word: str) -> str:\n    'Look it up.'\n    return word")
    server.polls = 10_000
    in_kernel.ok("%%bgresponse -o slow --quiet\nWait.")
    for options, says in {
        "--stream": "--stream can't be had in a batch",
        "--window 2h": "leave out --window or --batch",
        "--tier flex": "leave out --tier or --batch",
        "--sweep service_tier=flex,default": "leave out --tier or --batch",
        "--param background_options.completion_window=2h": "leave out --window or --batch",
        "--tool $look": "a batch can't call functions of the notebook",
        "-c slow": "a batch can't wait for slow",
    }.items():
        ran = in_kernel.run(
            f"%%bgresponse -o x --each questions --batch {options}\nSay {{{{ item }}}}"
        )
        assert says in ran.said, options
        assert "Traceback" not in ran.said
    single = in_kernel.run("%%bgresponse -o x --batch\nSay it.")
    assert "--batch is for many jobs" in single.said
    assert server.count("upload") == 0
    in_kernel.ok("%config BgMagics.stream = True\n%config BgMagics.tier = 'flex'")
    in_kernel.ok(f"{SWEEP}")
    eventually(lambda: server.count("upload"))


def test_one_of_a_batch_is_cancelled(in_kernel: Kernel, server: ScriptedServer) -> None:
    """%bgcancel of some jobs of a batch at the server says that only all together can be cancelled."""
    server.batching.polls = 10_000
    in_kernel.ok("questions = ['a', 'b', 'c']")
    in_kernel.ok(SWEEP)
    in_kernel.until("study.counts == {'in_progress': 3}")
    said = in_kernel.ok("%bgcancel study[1]").stdout
    assert "study[1]: a request of a batch can't be cancelled by itself" in said
    assert "study: a request of a batch can't" in in_kernel.ok("%bgcancel study[1] study[2]").stdout
    assert "study: 3 jobs are cancelled, or asked to be" in in_kernel.ok("%bgcancel study").stdout


def test_a_batch_over_a_restart(
    server: ScriptedServer, lasting: dict[str, str], tmp_path: Path
) -> None:
    """A batch that a kernel has left is followed by the next one; its half price is in the receipt, its
    answers are there for --reuse, and what has failed is sent again in a batch."""
    server.batching.polls = 10_000
    with kernel(**lasting) as one:
        one.ok("%load_ext bgmagic")
        one.ok("questions = ['a', 'b', 'c', 'd']")
        one.ok(PRICES)
        quoted = one.ok(
            SWEEP.replace("--batch", "--batch --dry-run --max-output-tokens 1000")
        ).stdout
        assert "4 jobs: at most $0.02 for output" in quoted
        assert "Nothing is sent. The file of a batch would get a line with:" in quoted
        one.ok(SWEEP)
        eventually(lambda: server.count("batch_poll"))
    server.batching.polls, server.batching.ending, server.batching.done = 0, "expired", 0.5
    with kernel(**lasting) as two:
        assert "%bgattach" in two.ok("%load_ext bgmagic").said
        two.ok(PRICES)
        wrong = two.run("%bgattach batch_68a9c0de12345678").said
        assert "the journal has no job or batch 'batch_68a9c0de12345678'" in wrong
        two.ok("%bgattach batch_1")
        two.until("study.jobs[0].record.batch_id == 'batch_1'")
        two.run("%bgwait study")
        assert two.value("[a.strip() for a in study[:2]]") == str(["echo: Say a", "echo: Say b"])
        assert two.value("[type(j.error).__name__ for j in study.failed]") == str(["JobFailed"] * 2)
        assert server.count("upload") == server.count("batch") == 1
        server.batching.ending, server.batching.done = "completed", 1.0
        assert "2 jobs sent again" in two.ok("study.retry_failed()").said
        two.ok("%bgwait study")
        assert two.value("study[3].strip()") == repr("echo: Say d")
        assert server.count("batch") == 2
        assert server.count("create") == 0
        receipt = two.ok("%bgcost").said
        # 1,000 tokens in and 100 out, at half of 1.25 and 10 dollars a million, four times.
        (line,) = [line for line in receipt.splitlines() if " batch " in line]
        assert line.split()[-2:] == ["$0.0045", "$0.0045"]
        two.ok("questions = ['a', 'b', 'c', 'd']")
        two.ok("%%bgresponse -o again --each questions --reuse\nSay {{ item }}")
        two.ok("%bgwait again")
        assert server.count("create") == 0
        two.ok("import bgmagic")
        two.ok("more = bgmagic.map('Say {{ item }}', ['e', 'f'], batch=True)")
        assert two.value("[a.strip() for a in more.result(120)]") == str(
            ["echo: Say e", "echo: Say f"]
        )
        assert two.value("more.to_frame().price.round(6).tolist()") == str([0.001125] * 2)


def test_a_group_is_cancelled_with_its_batch(in_kernel: Kernel, server: ScriptedServer) -> None:
    """%bgcancel of the group cancels the batch, once."""
    server.batching.polls, server.batching.done = 10_000, 0.0
    in_kernel.ok("questions = ['a', 'b']")
    in_kernel.ok(SWEEP)
    eventually(lambda: server.count("batch_poll"))
    in_kernel.ok("%bgcancel study")
    in_kernel.run("%bgwait study")
    assert in_kernel.value("study.counts") == str({"cancelled": 2})
    assert server.count("batch_cancel") == 1


def test_a_budget_holds_a_batch_as_a_whole(in_kernel: Kernel, server: ScriptedServer) -> None:
    """A batch that could go over the budget is not uploaded; --over-budget sends it."""
    in_kernel.ok("questions = ['a', 'b', 'c', 'd']")
    in_kernel.ok(PRICES)
    in_kernel.ok("%config BgMagics.budget = '0.012/day'")
    dear = SWEEP.replace("--batch", "--batch --max-output-tokens 1000")  # at most 4 x $0.005
    ran = in_kernel.run(dear)
    assert "the budget of $0.012/day" in ran.said
    assert server.count("upload") == 0
    in_kernel.ok(dear.replace("--batch", "--batch --over-budget"))
    in_kernel.ok("%bgwait study")
    assert server.count("batch") == 1


def test_a_large_batch_is_rendered_after_the_cell(
    in_kernel: Kernel, server: ScriptedServer
) -> None:
    """A batch of more jobs than a cell renders is one file all the same, and every answer is in its
    place."""
    in_kernel.ok("import bgmagic")
    in_kernel.ok("items = list(range(700))")
    in_kernel.ok("big = bgmagic.map('Say {{ item }}', items, batch=True, yes=700)")
    assert (
        in_kernel.value("[a.strip() for a in big.result(120)] == [f'echo: Say {n}' for n in items]")
        == "True"
    )
    assert server.count("upload") == 1
    assert set(server.batching.asked.values()) == {1}
    assert len(server.batching.asked) == 700


def made_elsewhere(server: ScriptedServer, names: list[str], **fields: Any) -> str:
    """A batch that somebody else has had the server make of requests with these names; its id."""
    batching = server.batching
    turns = [[{"role": "user", "content": f"Ask {name}"}] for name in names]
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/responses"}
        | {"body": {"model": "gpt-5.2", "store": True, "input": asked}}
        for name, asked in zip(names, turns, strict=True)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    file = batching._file("requests.jsonl", text.encode())
    body = {"input_file_id": file["id"], "endpoint": "/v1/responses", "completion_window": "24h"}
    made = batching.create(body | fields)[1]
    return str(made["id"])


def test_a_batch_from_elsewhere(in_kernel: Kernel, server: ScriptedServer) -> None:
    """%bgattach of a batch that no journal here has takes its requests from its file, or from its results
    where that has expired, and its answers; what is none of the Responses API is one line. Nothing is
    sent, no batch is cancelled, and what failed can be sent again where it is known what was asked. Other
    batches of its sweep are told, until they are here."""
    in_kernel.ok(PRICES.replace("}}", '}, "gpt-5.2-true": {"input": 1.25, "output": 10}}'))
    other = made_elsewhere(server, ["x"], endpoint="/v1/chat/completions")
    said = in_kernel.run(f"%bgattach {other}").said
    assert f"{other} is a batch of /v1/chat/completions, made by another program" in said
    assert "Traceback" not in said
    server.batching.polls = 0
    server.batching.ending, server.batching.done = "expired", 0.5
    ours = made_elsewhere(server, [f"{n:032x}" for n in range(4)], metadata={"bgmagic": "k"})
    in_kernel.ok(f"%bgattach {ours} -o study")
    in_kernel.run("%bgwait study")
    assert in_kernel.value("[a.strip() for a in study[:2]]") == str(
        [f"echo: Ask {n:032x}" for n in range(2)]
    )
    assert in_kernel.value("(len(study.failed), study.size)") == "(2, 4)"
    server.batching.ending, server.batching.done = "completed", 1.0
    before = len(server.batching.batches)
    assert "2 jobs sent again" in in_kernel.ok("study.retry_failed()").said
    eventually(lambda: len(server.batching.batches) > before)
    asked = server.batching.requests(list(server.batching.batches)[-1])
    assert [one["body"]["input"][0]["content"] for one in asked] == [
        f"Ask {n:032x}" for n in (2, 3)
    ]
    one, two = (
        made_elsewhere(server, [name], metadata={"bgmagic": name, "bgmagic_group": "g"})
        for name in ("p", "q")
    )
    told = f"one is one batch of its sweep, which has 1 more: {two}."
    assert told in in_kernel.ok(f"%bgattach {one} -o one").stdout
    assert "one batch of its sweep" not in in_kernel.ok(f"%bgattach {two} -o two").stdout
    # Names of another program, which others may have given too; its file has expired.
    theirs = [made_elsewhere(server, ["a", "b", "a"]) for _ in range(2)]
    for batch_id in theirs:
        server.batching.end(batch_id)
        server.batching.batches[batch_id]["input_file_id"] = "file-gone"
        in_kernel.ok(f"%bgattach {batch_id} -o {batch_id}")
        in_kernel.ok(f"%bgwait {batch_id}")
    assert in_kernel.value(f"sorted(a.strip() for a in {theirs[0]})") == str(
        ["echo: Ask a", "echo: Ask b"]
    )
    assert in_kernel.value(f"sorted({theirs[0]}) == sorted({theirs[1]})") == "True"
    assert server.count("create") == server.count("batch_cancel") == 0
    assert server.count("batch") == 1
    assert in_kernel.value("study.to_frame().price.round(6).tolist()[:2]") == str([0.001125] * 2)
    assert in_kernel.value(f"{theirs[0]}.to_frame().price.round(6).tolist()") == str([0.001125] * 2)


def test_a_batch_that_turns_up(in_kernel: Kernel, server: ScriptedServer) -> None:
    """A batch of which nobody knew whether the server had made it is found by %bgattach of its variable,
    as its board says, and made no second time; one that is still not found leaves its jobs unknown."""
    server.enqueue("batch", Script(reset="after"))
    server.always["batches"] = Script(status=404, json={"error": {"message": "no", "type": "x"}})
    in_kernel.ok("questions = ['a', 'b']")
    in_kernel.ok(SWEEP)
    in_kernel.until("study.counts == {'unknown': 2}")
    in_kernel.until("study.board.view['trouble'].startswith('%bgattach study asks the server')")
    in_kernel.ok("%bgattach study")
    in_kernel.until("study.counts == {'unknown': 2}")
    del server.always["batches"]
    in_kernel.ok("%bgattach study")
    in_kernel.ok("%bgwait study")
    assert in_kernel.value("[a.strip() for a in study]") == str(["echo: Say a", "echo: Say b"])
    assert in_kernel.value("study.board.view['trouble']") == repr("")
    assert server.count("batch") == server.count("upload") == 1
