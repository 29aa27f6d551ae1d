"""%bgcode in a real kernel."""

from __future__ import annotations

import pytest

from tests.support.kernels import Kernel
from tests.support.scripted import ScriptedServer, response

TWO = "First:\n\n```python\nprint('one')\n```\n\nthen\n\n~~~bash\nls -l\necho 2\n~~~\n"


def test_code_goes_into_the_next_cell(in_kernel: Kernel, server: ScriptedServer) -> None:
    """%bgcode puts the block that is asked for, or the only one, into a new cell; of an answer, of one
    of a group, of a text; else one line says what there is."""
    texts = {"two": TWO, "one": "```\nx = 1\n```", "none": "words"}
    server.ending = lambda rid, body: response(
        rid, "completed", texts[body["input"][-1]["content"][0]["text"].split()[0]]
    )
    in_kernel.ok("%%bgresponse -o two --wait\ntwo")
    in_kernel.ok("%%bgresponse -o one --wait\none")
    in_kernel.ok("%%bgresponse -o none --wait\nnone")
    in_kernel.ok("names = ['none', 'two']\n")
    in_kernel.ok("%%bgresponse -o study --each names --wait\n{{ item }}")
    assert in_kernel.value("[(b.language, b.text) for b in two.code]") == (
        "[('python', \"print('one')\"), ('bash', 'ls -l\\necho 2')]"
    )
    assert in_kernel.ok("%bgcode one").next_input == "x = 1"
    assert in_kernel.ok("%bgcode two 1").next_input == "print('one')"
    assert in_kernel.ok("%bgcode study[1] 2").next_input == "%%bash\nls -l\necho 2"
    in_kernel.ok("shown = '~~~HTML\\n<b>hi</b>\\n~~~\\n\\n~~~sql\\nselect 1\\n~~~'")
    assert in_kernel.ok("%bgcode shown 1").next_input == "%%html\n<b>hi</b>"
    assert in_kernel.ok("%bgcode shown 2").next_input == "select 1"
    in_kernel.ok("text = str(one); del two")
    assert in_kernel.ok("%bgcode text").next_input == "x = 1"
    assert in_kernel.ok("%bgcode two 1").next_input == "print('one')"  # from the journal
    wrong = {
        "": "name an answer",
        "two": "two has 2 blocks of code: 1 python (1 line), 2 bash (2 lines); %bgcode two N",
        "two 3": "%bgcode two 3: allowed is 1 to 2",
        "two x": "allowed is 1 to 2",
        "one 0": "allowed is 1",
        "one 1 2": "name an answer",
        "none": "none has no block of code",
        "study": "study is a group: %bgcode takes one of its answers, as study[0]",
        "nothing": "there is no answer 'nothing'",
        "--helpful": "%bgcode has no option --helpful; it has none",
    }
    for words, said in wrong.items():
        ran = in_kernel.run(f"%bgcode {words}")
        assert said in ran.said, ran.said
        assert (ran.said.count("\n"), ran.next_input) == (0, None)
    server.polls = 10**6
    in_kernel.ok("%%bgresponse -o runs\none")
    in_kernel.until("runs.running()")
    assert "can't give its code" in in_kernel.run("%bgcode runs").said


@pytest.mark.parametrize("line", ["%bgcode t|", "%bgcode |"])
def test_answers_are_offered(in_kernel: Kernel, line: str) -> None:
    """The Tab key offers the answers that there are."""
    in_kernel.ok("%%bgresponse -o two --wait\nWhy?")
    in_kernel.client.complete(line.replace("|", ""), line.index("|"))
    while (reply := in_kernel.client.get_shell_msg(timeout=60))["msg_type"] != "complete_reply":
        pass
    assert "two" in reply["content"]["matches"]
