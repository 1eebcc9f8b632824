"""What happens to processes, servers, ways and clocks in the simulation of standbys."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import TYPE_CHECKING, Any

import anyio

from tests.simulation.members import Member
from tests.simulation.server import TTL_S

if TYPE_CHECKING:
    from tests.simulation.standby import Standby


async def _stop(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    process = member.process
    process.stop()
    await anyio.sleep(pause_s)
    process.go_on()


async def _suspend(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    member.suspend()
    await anyio.sleep(pause_s)
    member.wake()
    world.insist(member)


async def _kill(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    if not member.process.is_dead and not world.is_mended:
        member.process.kill()
        await _start_again(world, member, pause_s)


async def _blow(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    """Have a process end at one of the points that it passes next."""
    member.process.left = chance.choice([0, 1, 2, 3, 5, 8, 13, 30])
    await _start_again(world, member, pause_s)


async def _end(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    member.end()
    await _start_again(world, member, pause_s)


async def _start_again(world: "Standby", member: Member, pause_s: float) -> None:
    life, ended = member.life, member.ended
    await ended.wait()
    await anyio.sleep(pause_s)
    if member.life == life and not member.is_fenced:
        member.start()


async def _cut(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    ways = chance.choice([[member.store_way], [member.broker_way], [member.store_way, member.broker_way]])
    for way in ways:
        way.cut = chance.choice(["both", "requests", "answers"])
        world.story.tell(f"{member.name} is cut from the {way.name}: {way.cut}")
    await anyio.sleep(pause_s)
    for way in ways:
        world.story.tell(f"{member.name} reaches the {way.name}")
        way.mend()


async def _stall(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    way = chance.choice([member.store_way, member.broker_way])
    way.stall_s = chance.choice([0.5, 3.0, 3.0, 20.0])
    world.story.tell(f"{member.name} has a slow way to the {way.name}: {way.stall_s}")
    await anyio.sleep(pause_s)
    way.mend()


async def _stall_leader(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    """Have answers to whoever leads come late while it has nothing to save, so that its lease is renewed late."""
    member = world.leader() or member
    if any(each.is_shunned for each in world.members):
        return
    member.is_shunned = True
    member.store_way.stall_s = 3.5
    world.story.tell(f"{member.name} has a slow way to the {member.store_way.name}: 3.5")
    await anyio.sleep(max(pause_s, 8.0))
    member.store_way.mend()
    member.is_shunned = False


async def _overtake(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    """Have whoever leads be overtaken, and hear of it late."""
    member = world.leader() or member
    if not any(each.is_shunned for each in world.members):
        # What it cannot save holds up all that comes after it.
        member.is_shunned = True
        await chance.choice([_overtake_asleep, _overtake_cut, _overtake_cut])(world, member, chance)
        member.is_shunned = False


async def _overtake_asleep(world: "Standby", member: Member, chance: Random) -> None:
    member.suspend()
    await anyio.sleep(chance.choice([8.0, 15.0]))
    member.wake()
    world.insist(member)


async def _overtake_cut(world: "Standby", member: Member, chance: Random) -> None:
    """Cut it from the database when what it has just sent is still on its way to the broker."""
    member.broker_way.stall_s = 20.0
    world.story.tell(f"{member.name} has a slow way to the {member.broker_way.name}, and is to be overtaken")
    world.submit_one(member)
    await anyio.sleep(chance.choice([0.3, 1.0]))
    if world.is_mended:
        return
    member.store_way.cut = "requests"
    world.story.tell(f"{member.name} is cut from the {member.store_way.name}, to be overtaken")
    await anyio.sleep(chance.choice([8.0, 15.0, 30.0]))
    for way in (member.broker_way, member.store_way):
        world.story.tell(f"{member.name} reaches the {way.name}")
        way.mend()
        await anyio.sleep(chance.choice([0.0, 3.0]))


async def _database(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    world.story.tell("the database is away")
    await _away(member.server, "away", pause_s)
    world.story.tell("the database is back")


async def _broker(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    world.story.tell("the broker is away")
    await _away(world.broker, "away", pause_s)
    world.broker.troubled_at = anyio.current_time()
    world.broker.wake()
    world.story.tell("the broker is back")


async def _server_clock(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    step_s = chance.choice([-3600.0, -3.0, 3.0, 3600.0])
    world.story.tell(f"the clock of the database is set by {step_s:+g} s")
    member.server.ahead_s += step_s
    for each in world.members:
        each.deceived_until = anyio.current_time() + TTL_S


async def _clock(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    # What waits for a time waits for longer then, in which little happens.
    step_s = chance.choice([-300.0, -5.0, 5.0, 300.0])
    world.story.tell(f"the clock of {member.name} is set by {step_s:+g} s")
    member.process.clock.offset += step_s


async def _workers(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    broker = world.broker
    if broker.workers:
        broker.workers[chance.choice(sorted(broker.workers))].kill()
        await anyio.sleep(pause_s)
        if not world.is_mended:
            world.start_worker()


async def _deaf(world: "Standby", member: Member, pause_s: float, chance: Random) -> None:
    world.broker.drops_notifications = chance.choice([0.0, 0.3, 1.0])


WEATHER: dict[str, Callable[["Standby", Member, float, Random], Awaitable[None]]] = {
    "stop": _stop,
    "suspend": _suspend,
    "kill": _kill,
    "blow": _blow,
    "end": _end,
    "cut": _cut,
    "cut again": _cut,
    "stall": _stall,
    "stall again": _stall_leader,
    "overtake": _overtake,
    "overtake again": _overtake,
    "database": _database,
    "broker": _broker,
    "server clock": _server_clock,
    "clock": _clock,
    "workers": _workers,
    "deaf": _deaf,
}


async def _away(server: Any, problem: str, pause_s: float) -> None:
    server.problem = problem
    await anyio.sleep(pause_s)
    server.problem = ""
