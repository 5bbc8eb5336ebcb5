"""Records: what goes in comes out, whole or not at all, and what is damaged is said and kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from sims import contract, engine, recorded, records
from sims.recorded import load_recorded, record_path, replay_agrees, write_recorded
from sims.records import Store, identity, read_dataset, results_folder, write_dataset

pytestmark = pytest.mark.usefixtures("store")


def example() -> xr.Dataset:
    return xr.Dataset(
        {
            "half": ("time", np.array([1.5, np.nan], dtype=np.float32)),
            "double": ("time", np.array([1e-300, np.inf])),
            "count": ("time", np.array([1, -(2**31)])),
            "flag": ("time", np.array([True, False])),
            "word": ("time", np.array(["α", "longer"])),
            "alone": 3.0,
        },
        {"time": [0.1, 0.2]},
        {"note": ["plain", {"data": None}]},
    )


def test_data_and_details_come_back_as_they_went(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "one.nc"
    details = {"config": {"a": 1, "b": [1.5, "ü"], "c": None, "d": True}}
    write_dataset(path, example(), details)
    dataset, found = read_dataset(path)
    assert found == details
    assert dataset.identical(example())
    dtypes = [str(dataset[name].dtype) for name in ("half", "double", "count", "flag")]
    assert dtypes == ["float32", "float64", "int32", "bool"]
    assert [one.name for one in path.parent.iterdir()] == ["one.nc"]


@pytest.mark.parametrize(
    ("values", "words"),
    [(np.array([2**31]), "beyond 32 bits"), (np.array([1j]), "dtype complex"), (np.array([None]), "dtype object"),
     (np.array([1.0], dtype=np.float16), "dtype float16")],
)  # fmt: skip
def test_what_the_format_would_change_is_refused(tmp_path: Path, values: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=f"variable x.*{words}"):
        write_dataset(tmp_path / "one.nc", xr.Dataset({"x": ("i", values)}), {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["empty", "cut header", "cut data", "text", "foreign", "no details"])
def test_a_damaged_or_foreign_file_is_one_sentence(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "one.nc"
    write_dataset(path, example(), {})
    content = path.read_bytes()
    if damage == "foreign":
        xr.Dataset({"x": 1.0}).to_netcdf(path, engine="scipy")
    elif damage == "no details":
        xr.Dataset({"x": 1.0}, attrs={"details": "{"}).to_netcdf(path, engine="scipy")
    else:
        path.write_bytes(
            {"empty": b"", "cut header": content[:100], "cut data": content[:-40], "text": b"x" * 99}[damage]
        )
    with pytest.raises(ValueError, match=r"one\.nc is corrupt, or not a record"):
        read_dataset(path)


def test_identity_is_of_what_differs_from_the_defaults(toy: str) -> None:
    config_type = contract.experiment(toy).config_type
    plain = identity("toy", config_type(), 0, "d")
    assert identity("toy", config_type(centre=1.0), 0, "d") == plain
    others = [identity("toy", config_type(centre=2.0), 0, "d"), identity("toy", config_type(), 1, "d"),
              identity("toy", config_type(), 0, "e"), identity("yot", config_type(), 0, "d"),
              identity("toy", config_type(marks=(2, 1)), 0, "d")]  # fmt: skip
    assert len({plain, *others}) == 6


def test_a_corrupt_record_of_the_store_is_set_aside_and_made_again(store: Path, toy: str) -> None:
    first = engine.run(toy, "smoke")
    one, other = sorted(store.rglob("*.nc"))[:2]
    one.write_bytes(one.read_bytes()[:50])
    other.write_bytes(sorted(store.rglob("*.nc"))[2].read_bytes())  # whole, but of another run
    again = engine.run(toy, "smoke")
    assert (again.provenance["n_computed"], again.provenance["n_stored"]) == (2, 10)
    assert len(again.provenance["set_aside"]) == len(list(store.rglob("*.corrupt"))) == 2
    assert again.measured.identical(first.measured)
    assert engine.run(toy, "smoke").provenance["set_aside"] == []


def test_an_unwritable_store_is_one_sentence(
    tmp_path: Path, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RECALL_AND_REASON_RESULTS", str(tmp_path / "file"))
    with pytest.raises(
        OSError, match=r"results folder .*file cannot be written .*; set RECALL_AND_REASON_RESULTS"
    ):
        engine.run(toy, "smoke")
    with pytest.raises(OSError, match="cannot be written"):
        Store(tmp_path / "file").save("toy", "x", example(), {})


def test_the_store_is_in_the_checkout_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECALL_AND_REASON_RESULTS", raising=False)
    assert results_folder() == records.CHECKOUT / ".results"
    monkeypatch.setattr(records, "CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert results_folder() == tmp_path / ".results"


def test_provenance_names_revision_versions_and_command(toy: str) -> None:
    details = engine.run(toy, "smoke").provenance
    assert {
        "revision",
        "dirty",
        "device",
        "wall_seconds",
        "versions",
        "command",
        "preset",
        "code_changed",
    } <= set(details)
    assert details["versions"]["numpy"] == np.__version__


def test_a_committed_record_answers_and_is_checked(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    live = engine.run(toy, "smoke", live=True)
    path = write_recorded(live)
    assert path == record_path("toy_experiment", "smoke")
    found = engine.run(toy, "smoke")
    assert found.provenance["recorded"]
    assert found.provenance["code_changed"] is False
    assert found.measured.estimate.dtype == float
    xr.testing.assert_allclose(found.measured, live.measured, rtol=1e-7)
    assert found.predicted.identical(live.predicted)
    assert not engine.run(toy, "smoke", live=True).provenance["recorded"]
    assert not engine.run(toy, "smoke", seeds=2).provenance["recorded"]
    assert not engine.run(toy, "smoke", centre=1.0).provenance["recorded"]
    monkeypatch.setenv("RECALL_AND_REASON_LIVE", "1")
    assert not engine.run(toy, "smoke").provenance["recorded"]
    with pytest.raises(ValueError, match="comes from a committed record"):
        write_recorded(found)
    with pytest.raises(ValueError, match="only the preset"):
        write_recorded(engine.run(toy, "smoke", seeds=2))


def test_the_replay_tells_changed_code(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_recorded(engine.run(toy, "smoke"))
    assert replay_agrees(toy, "smoke")
    module = contract.experiment(toy).module
    unchanged = module.simulate
    monkeypatch.setattr(
        module, "simulate", lambda runs, device: [one * 1.01 for one in unchanged(runs, device)]
    )
    assert not replay_agrees(toy, "smoke")
    with pytest.raises(ValueError, match="does not exist"):
        replay_agrees(toy, "paper")


def test_a_record_too_large_to_commit_says_what_to_cut(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = engine.run(toy, "smoke")
    monkeypatch.setattr(recorded, "MAXIMUM_BYTES", 1000)
    with pytest.raises(ValueError, match=r"1 MB may be committed; keep fewer times.*estimate"):
        write_recorded(outcome)
    assert not record_path("toy_experiment", "smoke").exists()


def test_a_foreign_committed_record_is_refused(toy: str) -> None:
    write_recorded(engine.run(toy, "smoke"))
    record_path("toy_experiment", "laptop").write_bytes(record_path("toy_experiment", "smoke").read_bytes())
    with pytest.raises(ValueError, match="does not hold toy_experiment at laptop scale"):
        load_recorded("toy_experiment", "laptop")


def test_float32_is_used_only_where_it_holds_the_numbers(toy: str) -> None:
    outcome = engine.run(toy, "smoke", live=True)
    outcome.measured["tiny"] = outcome.measured.estimate * 1e-60
    path = write_recorded(outcome)
    assert {name: str(one.dtype) for name, one in read_dataset(path)[0].data_vars.items()} == {
        "estimate": "float32", "count": "int32", "large": "bool", "tiny": "float64",
    }  # fmt: skip
    assert json.dumps(read_dataset(path)[1]["replay"])
