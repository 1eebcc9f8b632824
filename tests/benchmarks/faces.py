"""What a person looks at: folding workflows of any size, the bytes of a fold, and what it costs others meanwhile."""

import gc
import time
from collections.abc import Callable

import anyio
import anyio.lowlevel
import anyio.to_thread

from dyrygentd import wire
from dyrygentd.core.graph import Graph
from dyrygentd.core.node_spec import NodeSpec, Signature
from dyrygentd.core.origin import Origin
from dyrygentd.core.states import NodeState
from dyrygentd.core.timeline import BINS
from dyrygentd.core.workflow import RunningWorkflow
from dyrygentd.scheduler.folds import _INLINE_MAX, Folds
from dyrygentd.scheduler.timelines import Timelines
from dyrygentd.testing import FakeClock
from tests.benchmarks import watched
from tests.benchmarks.harness import Bench
from tests.benchmarks.report import Row, samples

_STEP_S = 0.002
"""How often the loop looks at the clock while a thread folds."""

_STEPS = (("first", "ms"), ("again", "ms"), ("opened", "ms"), ("timeline", "ms"), ("bytes", "bytes"), ("timeline bytes", "bytes"))


def run(bench: Bench) -> None:
    """Fold a group, a chain, chains in sections, and layers, of 100 to 1,000,000 nodes, and have many follow."""
    watched.run(bench)
    for size in [100, 1_000, 10_000, 100_000, 1_000_000][: bench.size(5, 2)]:
        for name, spec_of in _SHAPES.items():
            bench.say(f"faces: {name} of {size:,}")
            found = samples()
            for _ in range(bench.size(3 if size < 1_000_000 else 1, 1)):
                graph = Graph.build([spec_of(number, size) for number in range(size)])
                workflow = RunningWorkflow(workflow_id="w", name="w", graph=graph, origin=Origin(1.0), value_bytes_max=1)
                for step, value in anyio.run(_measured, workflow).items():
                    found[step].append(value)
                del graph, workflow
                gc.collect()
            for step, unit in _STEPS:
                bench.report.rows.append(Row("faces", f"{name}, {step}", size, unit, found[step]))
            reference = "beside a thread that counts"
            bench.report.rows.append(
                Row("faces", f"{name}, loop held up", size, "ms", found["loop held up"], reference, found["by counting"])
            )


async def _measured(workflow: RunningWorkflow) -> dict[str, float]:
    """Fold once, again, and open the largest box, and make a timeline; watch the loop meanwhile."""
    folds, gaps, floor = Folds(), [0.0], [0.0]
    timelines = Timelines(folds, FakeClock())
    _run(workflow)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_watch, gaps)
        await anyio.lowlevel.checkpoint()
        begin = time.perf_counter()
        whole = await folds.view(workflow, "")
        first, begin = time.perf_counter() - begin, time.perf_counter()
        await folds.view(workflow, "")
        again, begin = time.perf_counter() - begin, time.perf_counter()
        boxes = [box for box in whole.boxes if box.kind != "node"]
        if boxes:
            await folds.view(workflow, max(boxes, key=lambda box: box.nodes).path)
        opened, begin = time.perf_counter() - begin, time.perf_counter()
        timeline = await timelines.view(workflow, "", BINS)
        lasted = time.perf_counter() - begin
        tasks.cancel_scope.cancel()
    if len(workflow.graph) > _INLINE_MAX:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch, floor)
            await anyio.to_thread.run_sync(_count, first + again + opened + lasted)
            tasks.cancel_scope.cancel()
    lengths = {"bytes": float(len(wire.encode(whole))), "timeline bytes": float(len(wire.encode(timeline)))}
    seconds = {"first": first, "again": again, "opened": opened, "timeline": lasted}
    seconds |= {"loop held up": max(gaps), "by counting": max(floor)}
    return {**lengths, **{step: 1e3 * value for step, value in seconds.items()}}


def _run(workflow: RunningWorkflow) -> None:
    """Have all nodes run for some seconds, one beginning after the other."""
    for node in range(len(workflow.graph)):
        workflow.nodes.place(node, NodeState.SUCCEEDED)
        workflow.attempts.dispatched_at[node] = 1.0 + node / 100
        workflow.nodes.finished_at[node] = 3.0 + node / 100 + node % 7
    workflow.finished_at = 10.0 + len(workflow.graph) / 100


def _count(seconds: float) -> None:
    """Keep the interpreter busy as plain Python does."""
    end, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        number += 1


async def _watch(gaps: list[float]) -> None:
    while True:
        begin = time.perf_counter()
        await anyio.sleep(_STEP_S)
        gaps.append(time.perf_counter() - begin - _STEP_S)


def _group(number: int, size: int) -> NodeSpec:
    return NodeSpec(f"resize-{number}", Signature("images.resize"), str(number), ["resize-0"] if number else [])


def _chain(number: int, size: int) -> NodeSpec:
    return NodeSpec(f"step-{number}", Signature("app.step"), str(number), [f"step-{number - 1}"] if number else [])


def _sections(number: int, size: int) -> NodeSpec:
    host, step = divmod(number, 10)
    after = [f"node-{number - 1}"] if step else []
    return NodeSpec(f"node-{number}", Signature(f"app.step_{step}"), str(number), after, section=f"drain/host-{host}")


def _layers(number: int, size: int) -> NodeSpec:
    width = max(1, round(size**0.5))
    row, column = divmod(number, width)
    after = [f"node-{(row - 1) * width + (column + offset) % width}" for offset in range(min(3, width))] if row else []
    return NodeSpec(f"node-{number}", Signature(f"app.kind_{number % 7}"), str(number), after)


_SHAPES: dict[str, Callable[[int, int], NodeSpec]] = {
    "group": _group,
    "chain": _chain,
    "sections": _sections,
    "layered": _layers,
}
