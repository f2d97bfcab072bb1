"""Passes: one shape of graph that every Beam runner can run, faults that are named, errors that stop."""

import ast
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api

import pipeline as package
from pipeline import passes
from pipeline.cluster import near_duplicates
from pipeline.engine import Engine, EngineError
from pipeline.passes import BuildFaultError, PerSource, Step, run_pass
from pipeline.store import StorageError, Store
from tests.pipeline.test_judge import PARAMETERS, shard_of

CAPTURED: list[Any] = []


@dataclass(frozen=True)
class Capturing(Engine):
    """Keeps the graph of each pipeline, and runs it."""

    quiet: bool = True

    def pipeline(self) -> beam.Pipeline:
        made = super().pipeline()
        run = made.run

        def captured(*arguments: Any, **more: Any) -> Any:
            CAPTURED.append(made.to_runner_api())
            return run(*arguments, **more)

        made.run = captured  # type: ignore[method-assign]
        return made


@dataclass
class Work:
    """Writes the name of each unit; fails as a unit's specification says."""

    store: Store
    set_up: bool = False
    seen: list[str] = field(default_factory=list)

    def setup(self) -> None:
        self.set_up = True

    def run(self, specification: dict[str, Any]) -> int:
        assert self.set_up
        unit = specification["unit"]
        if specification.get("fails") == "fault":
            raise ValueError(f"nothing can be made of {unit}")
        if specification.get("fails") == "disk":
            raise StorageError(f"can't write {unit}: No space left on device. Free space.")
        self.store.write(f"done/{unit}", b"")
        order = self.store.read("order").decode() if self.store.exists("order") else ""
        self.store.write("order", f"{order}{unit} ".encode())
        return 7


def units_of(*names: str, **fails: str) -> list[dict[str, Any]]:
    return [
        {"unit": name, "size": 1, "source": "code"} | ({"fails": fails[name]} if name in fails else {})
        for name in names
    ]


def run(
    store: Store, units: list[dict[str, Any]], engine: Engine | None = None, name: str = "crawl", work: Any = None
) -> None:
    run_pass(name, [Step(name, work or Work(store), units, committed(store))], engine or Capturing())


def committed(store: Store) -> Callable[[dict[str, Any]], bool]:
    return lambda unit: store.exists(f"done/{unit['unit']}")


@pytest.fixture
def store(tmp_path: Any) -> Any:
    CAPTURED.clear()
    return Store(str(tmp_path))


# The graph --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["a pass over units", "deduplicate"])
def graph(request: Any, store: Any) -> Any:
    """The graph of every pipeline that a build runs."""
    if request.param == "deduplicate":
        shards = [shard_of(store, [{"path": b"a.py", "text": "one two three four five six"}])]
        files, ranks = [shards[0].tables["signatures"].files[0].path], [np.zeros(1, np.uint64)]
        near_duplicates(store, files, ranks, PARAMETERS, Capturing(), "k" * 64)
    else:
        run(store, units_of("a", "b"))
    (captured,) = CAPTURED
    return captured


def leaves_of(graph: api.Pipeline) -> list[api.PTransform]:
    """What a runner runs: without composites, nor those that hand their input on (Create's MaybeReshuffle)."""
    return [
        t
        for t in graph.components.transforms.values()
        if not t.subtransforms and t.spec.urn and set(t.outputs.values()) != set(t.inputs.values())
    ]


def payload_of(transform: api.PTransform) -> api.ParDoPayload:
    payload: api.ParDoPayload = api.ParDoPayload.FromString(transform.spec.payload)
    return payload


def test_a_graph_is_made_of_impulse_pardo_group_by_key_and_flatten_only(graph: Any) -> None:
    urns = {t.spec.urn for t in leaves_of(graph)}
    primitives = common_urns.primitives
    assert urns <= {p.urn for p in (primitives.IMPULSE, primitives.PAR_DO, primitives.GROUP_BY_KEY, primitives.FLATTEN)}
    assert primitives.GROUP_BY_KEY.urn in urns


def test_a_graph_has_no_reshuffle_read_write_or_combine(graph: Any) -> None:
    known = common_urns.composites
    composites = {t.spec.urn for t in graph.components.transforms.values() if t.subtransforms}
    assert known.RESHUFFLE.urn not in composites
    assert not any("combine" in urn or "reshuffle" in urn for urn in composites)
    names = " ".join(t.unique_name for t in leaves_of(graph)).lower()
    assert not [word for word in ("/reshuffle", "readfrom", "writeto", "sdf", "cogroup", "combine") if word in names]


def test_every_pardo_has_one_output_no_side_input_no_state_and_no_timer(graph: Any) -> None:
    for transform in leaves_of(graph):
        assert len(transform.outputs) == 1, transform.unique_name
        if transform.spec.urn == common_urns.primitives.PAR_DO.urn:
            payload = payload_of(transform)
            assert not payload.side_inputs, transform.unique_name
            assert not payload.state_specs, transform.unique_name
            assert not payload.timer_family_specs, transform.unique_name
            assert not payload.restriction_coder_id, transform.unique_name
            assert not payload.requires_time_sorted_input, transform.unique_name


def test_a_graph_has_one_leaf(graph: Any) -> None:
    consumed = {p for t in leaves_of(graph) for p in t.inputs.values()}
    produced = {p for t in leaves_of(graph) for p in t.outputs.values()}
    assert len(produced - consumed) == 1


def test_keys_are_coded_deterministically_and_values_are_numbers_or_bytes(graph: Any) -> None:
    """Without type hints Beam pickles, and a pickle of a key is no key on every runner."""
    coders, collections = graph.components.coders, graph.components.pcollections
    plain = {"beam:coder:varint:v1", "beam:coder:bytes:v1", "beam:coder:kv:v1", "beam:coder:iterable:v1"}
    groups = [t for t in leaves_of(graph) if t.spec.urn == common_urns.primitives.GROUP_BY_KEY.urn]
    assert groups
    for transform in groups:
        for name in (*transform.inputs.values(), *transform.outputs.values()):
            waiting = [collections[name].coder_id]
            while waiting:
                coder = coders[waiting.pop()]
                assert coder.spec.urn in plain, transform.unique_name
                waiting += coder.component_coder_ids


def test_what_travels_is_small(graph: Any) -> None:
    """Specifications lie in a file; functions carry their configuration only."""
    for transform in leaves_of(graph):
        assert len(transform.spec.payload) < 20_000, transform.unique_name


def test_pipelines_are_made_and_run_in_the_engine_only() -> None:
    """So the graphs above are all that there are."""
    makers, users = set(), set()
    for path in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr == "Pipeline":
                    makers.add(path.stem)
                if node.func.attr == "pipeline":
                    users.add(path.stem)
    assert makers == {"engine"}
    assert users == {"engine"}


def test_no_module_uses_what_a_runner_may_lack() -> None:
    forbidden = {
        "Reshuffle",
        "CoGroupByKey",
        "AsList",
        "AsDict",
        "AsIter",
        "AsSingleton",
        "with_outputs",
        "TaggedOutput",
    }
    forbidden |= {"with_exception_handling", "CombinePerKey", "CombineGlobally", "ReadFromText", "WriteToText"}
    forbidden |= {"ReadFromParquet", "WriteToParquet", "BagStateSpec", "TimerSpec", "Redistribute"}
    for path in Path(package.__file__).parent.glob("*.py"):
        names = {n.attr for n in ast.walk(ast.parse(path.read_bytes())) if isinstance(n, ast.Attribute)}
        assert not names & forbidden, path


# Running ----------------------------------------------------------------------------------------------------------


def test_every_unit_is_done_and_nothing_of_the_pass_stays_but_its_timings(store: Any) -> None:
    run(store, units_of("a", "b", "c"))
    assert sorted(store.files()) == sorted(
        ["done/a", "done/b", "done/c", "order", *(f"timings/crawl/code/{u}.json" for u in "abc")]
    )
    figures = store.read_json("timings/crawl/code/a.json")
    assert (figures["pass"], figures["unit"], figures["text_bytes"]) == ("crawl", "a", 7)
    assert figures["seconds"] >= 0


def test_the_largest_units_go_first_and_equal_ones_by_name(store: Any) -> None:
    sizes = {"s": 1, "l": 100, "b": 50, "a": 50}
    specifications: list[list[dict[str, Any]]] = []

    class Watching(Store):
        def write_json(self, path: str, value: Any) -> None:
            if path.startswith("work/crawl-"):
                specifications.append(value)
            Store.write_json(self, path, value)

    run(store, [{"unit": u, "size": n, "source": "code"} for u, n in sizes.items()], work=Work(Watching(store.url)))
    assert [u["unit"] for u in specifications[0]] == ["l", "a", "b", "s"]


def test_a_pass_without_units_starts_nothing(store: Any) -> None:
    run(store, [])
    assert CAPTURED == []
    assert list(store.files()) == []


def test_a_step_starts_when_the_one_before_is_done(store: Any) -> None:
    done = committed(store)
    steps = [Step(name, Work(store), units_of(*units), done) for name, units in (("one", "zyx"), ("two", "ba"))]
    assert run_pass("both", steps, Capturing())
    assert store.read("order").decode().split() == ["x", "y", "z", "a", "b"]
    assert not run_pass("both", steps, Capturing())
    assert len(CAPTURED) == 1


def test_units_that_are_done_are_left_out_and_a_step_without_others_too(store: Any) -> None:
    store.write("done/a", b"")
    steps = [
        Step(name, Work(store), units_of(*units), committed(store)) for name, units in (("one", "a"), ("two", "ab"))
    ]
    assert run_pass("both", steps, Capturing())
    assert store.read("order").decode().split() == ["b"]


def test_a_fault_of_a_step_is_told_and_not_what_follows_from_it(store: Any) -> None:
    steps = [
        Step("one", Work(store), units_of("a", a="fault"), committed(store)),
        Step("two", Work(store), units_of("b", b="fault"), committed(store)),
    ]
    with pytest.raises(BuildFaultError, match=r"^one: 1 of 1 units stayed incomplete:\n  code/a: ValueError"):
        run_pass("both", steps, Capturing())


def test_each_unit_goes_to_the_work_of_its_source(tmp_path: Any) -> None:
    stores = {name: Store(str(tmp_path / name)) for name in ("code", "web")}
    both = PerSource({name: Work(s) for name, s in stores.items()}, Store(str(tmp_path)))
    both.setup()
    assert [both.run({"unit": n, "source": n}) for n in stores] == [7, 7]
    assert all(s.exists(f"done/{name}") for name, s in stores.items())


# Faults -----------------------------------------------------------------------------------------------------------


def test_a_unit_that_fails_is_named_with_its_cause_and_the_others_go_on(store: Any) -> None:
    with pytest.raises(BuildFaultError) as caught:
        run(store, units_of("a", "bad", "c", bad="fault"))
    said = str(caught.value)
    assert said.splitlines()[0] == "crawl: 1 of 3 units stayed incomplete:"
    assert "code/bad: ValueError: nothing can be made of bad (trace in faults/crawl/code/bad.json)" in said
    assert "the same command tries these again" in said
    assert [u for u in ("a", "bad", "c") if store.exists(f"done/{u}")] == ["a", "c"]
    note = store.read_json("faults/crawl/code/bad.json")
    assert "raise ValueError" in note["trace"]


def test_a_unit_that_goes_well_the_next_time_leaves_no_note(store: Any) -> None:
    with pytest.raises(BuildFaultError):
        run(store, units_of("a", "bad", bad="fault"))
    run(store, units_of("bad"))
    assert not store.exists("faults/crawl/code/bad.json")
    assert list(store.files("work")) == []


def test_many_faults_are_ten_lines_and_a_number(store: Any) -> None:
    names = [f"u{i:02d}" for i in range(14)]
    with pytest.raises(BuildFaultError) as caught:
        run(store, units_of(*names, **dict.fromkeys(names, "fault")))
    said = str(caught.value).splitlines()
    assert said[0] == "crawl: 14 of 14 units stayed incomplete:"
    assert said[11] == "  and 4 more"
    assert len(said) == 13


def test_a_unit_that_was_not_committed_though_it_raised_nothing_is_a_fault(store: Any) -> None:
    with pytest.raises(BuildFaultError, match="code/a: not done"):
        run_pass("crawl", [Step("crawl", Work(store), units_of("a"), lambda unit: False)], Capturing())


def test_a_full_disk_stops_the_pass_with_its_one_message(store: Any) -> None:
    with pytest.raises(StorageError, match=r"^can't write bad: No space left on device\. Free space\.$"):
        run(store, units_of("a", "bad", bad="disk"))
    assert not store.exists("faults/crawl/code/bad.json")


@pytest.mark.parametrize("place", ["timings", "faults"])
def test_a_disk_that_is_full_for_notes_and_timings_is_the_same_one_message(store: Any, place: Any) -> None:
    """A worker's error reaches the driver as text: only what is marked as a fault is told as one sentence."""
    store.write(place, b"a file where a folder is wanted")
    store.write_json("work/crawl.json", units_of("a") if place == "timings" else units_of("a", a="fault"))
    worker = passes._Do("crawl", Work(store), "work/crawl.json", "work/crawl.stop", ())
    worker.setup()
    with pytest.raises(RuntimeError, match=rf"^headrace fault: can't write {place}/crawl/code/a\.json: ") as caught:
        list(worker.process((0, [0])))
    assert isinstance(Engine().explain(caught.value), StorageError)


def test_a_worker_with_other_code_or_libraries_refuses_to_work(store: Any, monkeypatch: Any) -> None:
    digests = iter(["driver", *["worker"] * 9])
    monkeypatch.setattr(passes, "environment_digest", lambda modules, libraries: next(digests))
    with pytest.raises(EngineError) as caught:
        run(store, units_of("a"))
    assert str(caught.value) == (
        "this worker's code or libraries differ from the driver's (worker here, driver there): install the same "
        "version of headrace and of its locked dependencies on both"
    )
    assert not store.exists("done/a")


def test_a_pass_runs_on_an_object_store() -> None:
    store = Store(f"memory://{uuid.uuid4().hex}")
    run(store, units_of("a", "b"))
    assert store.exists("done/a")
