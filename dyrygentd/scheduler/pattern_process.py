"""Regular expressions that others have written, searched for in a process of their own, which may be ended at any time.

Theory of operation
===================
*The idea.* A careless pattern and a hostile text together can take `re` longer than the universe exists, and `re` holds the
interpreter's lock: no thread can stop it, and none of the loop's deadlines comes. So the search runs in a child, which stops
itself when its share of processor time is over (`re` looks for signals, but only in a main thread, and an embedding program's
is not ours), and which is killed if it does not answer at all.

*The rules.* What was not searched to its end is hidden whole. After that nothing is searched for some time, and all is hidden:
whoever can have tasks fail could have the loop wait again and again. The problem is told as long as that lasts, with the
pattern.

*Tried and rejected.* Judging patterns beforehand: nested quantifiers can be found, but two that overlap are enough for minutes,
and are harmless in most patterns that people write. An engine of our own in linear time: groups, lazy quantifiers and
lookarounds are what people use.
"""

import json
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

#: Processor time that the child may take for one request; the loop waits as long.
_CPU_S: Final = 0.2
#: Time after which a child that does not answer is killed: it was stopped, or the machine has no time for it.
_WAIT_S: Final = 2.0
#: After a search that was given up, so long everything is hidden: the loop waits a hundredth of the time at most.
_PAUSE_S: Final = 30.0
#: Characters of texts in one request.
_REQUEST_CHARACTERS: Final = 64 * 1024

_ADVICE: Final = "write it without quantifiers that fit the same text in several ways, such as (a+)+"
#: Written at once (see pipe(7), PIPE_BUF: less than this never blocks where there is room) and read at once.
_PIPE_BYTES: Final = 4096

#: What the child runs: first a line with the patterns, then a line with texts for each request.
_CHILD: Final = r"""
import json, re, signal, sys
HIDDEN = "****"
def hidden(match):
    if match.lastindex is None:
        return HIDDEN
    begin, end = (place - match.start() for place in match.span(match.lastindex))
    return match.group()[:begin] + HIDDEN + match.group()[end:]
class Over(Exception):
    pass
def over(*_):
    raise Over
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    # It ends with its input: whoever ends all of a service still wants errors cleaned that come in until then.
    signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGVTALRM, over)
cpu_s, *patterns = json.loads(sys.stdin.readline())
patterns = [re.compile(pattern) for pattern in patterns]
for line in sys.stdin:
    texts, done, late = json.loads(line), [], -1
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
        for text in texts:
            for late, pattern in enumerate(patterns):
                text = pattern.sub(hidden, text)
            done.append(text)
        late = -1
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    except Over:
        pass
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    print(json.dumps([late, *done]), flush=True)
"""


class PatternProcess:
    """Takes out what patterns find. Guards: nobody waits longer than `_WAIT_S`, and what was not searched is hidden.

    Args:
        patterns: As `re` compiles them; what a group finds, or all that is found without one, is replaced.
        hidden: What takes the place of a text that was not searched to its end.
    """

    def __init__(self, patterns: Sequence[str], *, hidden: str, cpu_s: float = _CPU_S, pause_s: float = _PAUSE_S) -> None:
        self._patterns = list(patterns)
        self._hidden = hidden
        self._cpu_s = cpu_s
        self._pause_s = pause_s
        self._child: subprocess.Popen[bytes] | None = None
        self._blind_until = 0.0
        self._reason = ""

    def __repr__(self) -> str:
        return f"<PatternProcess patterns={len(self._patterns)} problem={self.problem!r}>"

    @property
    def problem(self) -> str:
        """Why everything is hidden at present, empty if it is not."""
        return self._reason if time.monotonic() < self._blind_until else ""

    def clean(self, texts: Sequence[str]) -> list[str]:
        """Return texts without what the patterns find."""
        cleaned: list[str] = []
        while len(cleaned) < len(texts):
            if time.monotonic() < self._blind_until:
                return [*cleaned, *(self._hidden for _ in texts[len(cleaned) :])]
            part: list[str] = []
            size = 0
            for text in texts[len(cleaned) :]:
                size += len(text)
                if part and size > _REQUEST_CHARACTERS:
                    break
                part.append(text)
            found = self._asked(part)
            cleaned += found
            cleaned += [self._hidden] * (len(part) - len(found))
        return cleaned

    def close(self) -> None:
        """End the child; safe to repeat. It is started again when it is needed."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def _asked(self, texts: Sequence[str]) -> list[str]:
        """Return the texts that were searched to their end, from the first on."""
        request = json.dumps(list(texts)).encode()
        try:
            try:
                answer = self._exchanged(request)
            except BrokenPipeError:
                # Somebody has ended it; a new one has nothing to do with that.
                self.close()
                answer = self._exchanged(request)
            late, *done = json.loads(answer)
        except (OSError, ValueError) as error:
            self._give_up(f"the patterns of `redact` cannot be searched for ({error})")
            self.close()
            return []
        if late >= 0:
            self._give_up(f"the pattern {self._patterns[late]!r} of `redact` takes too long for a text that came; {_ADVICE}")
        return list(done)

    def _give_up(self, reason: str) -> None:
        self._reason = f"texts of tasks are hidden whole: {reason}"
        self._blind_until = time.monotonic() + self._pause_s

    def _exchanged(self, line: bytes) -> bytes:
        end = time.monotonic() + _WAIT_S
        child = self._child
        if child is None or child.poll() is not None:
            self.close()
            child = self._child = _started()
            line = json.dumps([self._cpu_s, *self._patterns]).encode() + b"\n" + line
        assert child.stdin is not None
        assert child.stdout is not None
        written, answer, rest = 0, b"", line + b"\n"
        # Not `select`, which knows no more than 1024 files.
        ready = select.poll()
        ready.register(child.stdout, select.POLLIN)
        ready.register(child.stdin, select.POLLOUT)
        while not answer.endswith(b"\n"):
            found = dict(ready.poll(max(0.0, end - time.monotonic()) * 1000))
            if not found:
                raise TimeoutError(f"no answer within {_WAIT_S:g} s")
            if child.stdin.fileno() in found:
                written += child.stdin.write(rest[written : written + _PIPE_BYTES]) or 0
                if written == len(rest):
                    ready.unregister(child.stdin)
            if child.stdout.fileno() in found:
                read = child.stdout.read(_PIPE_BYTES)
                if not read:
                    raise BrokenPipeError("its process has ended")
                answer += read
        return answer


def _started() -> "subprocess.Popen[bytes]":
    """Start a child that has none of our environment and files, and ends with us."""
    # Not `sys.path`, not the environment: nothing of the user's is loaded.
    command = [sys.executable, "-I", "-S", "-c", _CHILD]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, env={})
