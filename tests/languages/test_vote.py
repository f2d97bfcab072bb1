import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from languages import names, vote

SHADER = b"#version 330\nin vec3 color;\nvoid main() {\n  gl_FragColor = vec4(color, 1.0);\n}\n" * 3
SCRIPT = b"const f = (a) => a ?? 1;\nclass A { #x = 1; get y() { return this.#x; } }\n" * 3
DOZEN = random.Random(3)
HOSTILE = {
    "cobol": b"void foo()\n{\n}\n",
    "nested": b"(" * vote.SIZE_CAP,
    "braces": b"{" * vote.SIZE_CAP,
    "brackets": b"[" * vote.SIZE_CAP,
    "quotes": b'"' * vote.SIZE_CAP,
    "random": DOZEN.randbytes(vote.SIZE_CAP),
    "ascii": bytes(DOZEN.randrange(32, 127) for _ in range(vote.SIZE_CAP)),
    "mumps": b' ; comment\nEN(X) n y s y=$$F^ROU(X,.Z) i y>0 d\n . s ^G(X,"a")=$p(y,"^",2) q:$d(Z)\n q\n' * 700,
    "nul": b"\0" * vote.SIZE_CAP,
}


def grammars_that_vote() -> list[str]:
    found = set()
    for candidates in names.lookups().extensions.values():
        grammars = [names.grammars().get(language, "") for language in candidates]
        if vote.votable(grammars):
            found |= set(grammars)
    return sorted(found)


def test_the_language_that_parses_wins_wherever_it_stands() -> None:
    assert vote.vote(SHADER, ["glsl", "javascript"]) == 0
    assert vote.vote(SCRIPT, ["glsl", "javascript"]) == 1


def test_no_one_wins_where_two_parse() -> None:
    assert vote.vote(b"x = 1\n", ["python", "starlark"]) is None


def test_a_text_over_the_size_cap_and_an_empty_one_are_not_voted_on() -> None:
    assert vote.vote(b"a" * (vote.SIZE_CAP + 1), ["python", "ruby"]) is None
    assert vote.vote(b"", ["python", "ruby"]) is None


def test_a_set_with_a_denied_or_missing_grammar_does_not_vote() -> None:
    assert vote.votable(["python", "ruby"])
    assert not vote.votable(["python", ""])
    assert not vote.votable(["python", "cobol"])
    assert not vote.votable(["python", "python"])
    assert {"cobol", "bash", "yaml", "dm"} <= vote.DENIED


def test_a_spent_budget_is_told_and_is_the_same_every_time() -> None:
    text = SCRIPT * 100
    assert [vote.error_bytes(text, "javascript", budget=5) for _ in range(3)] == [-1, -1, -1]
    assert vote.error_bytes(text, "javascript") == 0


@pytest.mark.parametrize("shape", sorted(HOSTILE))
def test_hostile_text_neither_hangs_nor_kills_a_grammar_that_votes(shape: str) -> None:
    for grammar in grammars_that_vote():
        vote.vote(HOSTILE[shape][: vote.SIZE_CAP], [grammar, "json"], watchdog=60)


def test_a_child_that_dies_is_a_fault_and_is_replaced() -> None:
    assert vote.vote(SHADER, ["glsl", "javascript"]) == 0
    process = vote._child()._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(vote.VoteFault, match="child failed"):
        vote.vote(SHADER, ["glsl", "javascript"])
    assert vote.vote(SHADER, ["glsl", "javascript"]) == 0


def test_the_watchdog_ends_a_hang_as_a_fault() -> None:
    with pytest.raises(vote.VoteFault):
        vote._child().ask(HOSTILE["cobol"], ["cobol"], 1.0)
    assert vote.vote(SCRIPT, ["glsl", "javascript"]) == 1


def test_a_fork_gets_a_child_of_its_own() -> None:
    vote.vote(SHADER, ["glsl", "javascript"])
    mine = vote._child()._process
    code = """
        import os, sys
        from languages import vote
        vote.vote(b"x = 1;\\n" * 9, ["javascript", "python"])
        first = vote._child()._process.pid
        pid = os.fork()
        if pid == 0:
            vote.vote(b"x = 1;\\n" * 9, ["javascript", "python"])
            os._exit(0 if vote._child()._process.pid != first else 1)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == 0
    assert mine is not None
    assert mine.poll() is None


def test_the_child_dies_with_a_parent_that_is_killed() -> None:
    code = "from languages import vote; import time; vote.vote(b'x = 1', ['python', 'ruby']);"
    code += "print(vote._child()._process.pid, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
