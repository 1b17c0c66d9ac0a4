"""Two processes on one topic: one model, and one of them killed."""

from __future__ import annotations

from pathlib import Path

from tests.flows.books import books_of, contradictions, count_of
from tests.flows.live_flow import LiveFlow, Running, live_flow, read_to_the_end
from tests.flows.traffic import Traffic, sent_event
from tests.kafka_topics import eventually
from tests.servers.kafka import RunningKafka
from tests.servers.process import free_ports
from tests.servers.redis import RunningRedis

BURST = 600


def start_both(flow: LiveFlow, addresses: list[str]) -> list[Running]:
    words = [word for address in addresses for word in ("-a", address)]
    both = [flow.start("-i", str(number), *words) for number in range(2)]
    for process in both:
        process.await_ready()
    return both


def burst(traffic: Traffic, number: int) -> None:
    for n in range(number * BURST, (number + 1) * BURST):
        traffic.send(sent_event(n))
    traffic.flush()


def total(process: Running, metric: str) -> float:
    return sum(process.metric(f"nextbest_{metric}").values())


def test_two_processes_learn_one_model_and_survive_the_death_of_one(
    kafka: RunningKafka, redis_server: RunningRedis, topic_prefix: str, tmp_path: Path
) -> None:
    with live_flow(
        kafka.bootstrap, prefix=topic_prefix, directory=tmp_path, redis_url=redis_server.url
    ) as flow:
        addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        traffic = Traffic(flow)

        def decided() -> bool:
            return count_of(flow, "decisions") >= len(traffic.requested)

        both = start_both(flow, addresses)
        burst(traffic, 0)
        eventually(decided, what="the first burst decided")
        eventually(
            lambda: sum(total(process, "examples_learned_total") > 0 for process in both) == 1,
            what="a learner",
        )
        learner = max(both, key=lambda process: total(process, "examples_learned_total"))
        other = both[1 - both.index(learner)]
        eventually(
            lambda: len(other.metric("nextbest_parameters_age_seconds")) == 1,
            what="parameters in the process that does not learn",
        )
        before = [total(process, "decisions_total") for process in both]
        burst(traffic, 1)
        eventually(decided, what="the second burst decided")
        after = [total(process, "decisions_total") for process in both]
        assert all(made > made_before for made, made_before in zip(after, before, strict=True))
        assert total(other, "examples_learned_total") == 0

        # In the middle of a burst, so that there is something to make again.
        burst(traffic, 2)
        other.kill()
        assert learner.process.wait(30) == 1, learner.said
        assert "ended because another process of the cluster did" in learner.said
        assert "Traceback" not in learner.said
        assert "FATAL" not in learner.said

        both = start_both(flow, addresses)
        eventually(decided, what="the third burst decided")
        eventually(lambda: read_to_the_end(both), what="every event read")
        for process in both:
            process.process.terminate()
        assert [process.process.wait(30) for process in both] == [0, 0]
        traffic.close()

        books = books_of(flow)
        assert contradictions(books, requested=traffic.requested) == []
        versions = {
            decision["trigger"]["event_id"]: decision["model_version"]
            for decision in books.decisions
        }
        second = {versions[f"e{n:05d}"] for n in range(BURST, 2 * BURST) if n % 2 == 0}
        # Whichever process decided, it used what the one learner had learned.
        assert "prior" not in second
        assert len({version.partition(".")[0] for version in second}) == 1
