"""The command line: `python -m sims list | run | check | claims`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from sims import claims, contract, engine, fields, recorded, records, streams
from sims.agreement import Agreement
from sims.pool import WorkersDied
from sims.statistics import z_threshold

DESCRIPTION = """Run the experiments of this project and compare what is measured with what theory predicts.

  python -m sims list                         the experiments, and what each scale costs
  python -m sims run NAME --scale smoke       one experiment in seconds
  python -m sims run NAME --set field=value   with a setting of your own; field=1,2,3 makes an axis
  python -m sims check NAME                   random problems, prediction against simulation
  python -m sims claims                       every claim with its verdict

Finished runs are kept in .results (or $RECALL_AND_REASON_RESULTS): an interrupted command goes on there."""
NAME_HELP = "an experiment (see list), or the path of a .py file that holds one"
SCALE_HELP = "smoke takes seconds, laptop minutes, paper wants a GPU (default: %(default)s)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sims", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    commands.add_parser("list", help="list experiments and the cost of each scale").set_defaults(act=_list)

    run = commands.add_parser("run", help="run one experiment and print its claims")
    run.add_argument("name", metavar="NAME", help=NAME_HELP)
    run.add_argument("--scale", default="laptop", metavar="SCALE", help=SCALE_HELP)
    run.add_argument("--seeds", type=int, metavar="N", help="number of seeds, instead of the scale's own")
    run.add_argument("--device", default="cpu", help="cpu, cuda or cuda:0 (default: %(default)s)")
    run.add_argument("--workers", type=int, metavar="N", help="processes (default: one a processor)")
    setting = "a setting of your own, repeatable; several values, 0.1,0.2, make an axis"
    run.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help=setting)
    run.add_argument("--live", action="store_true", help="compute, even when a committed record answers")
    run.add_argument(
        "--record", action="store_true", help="compute, and write the record that the book commits"
    )
    run.add_argument(
        "--dry-run", action="store_true", help="only say how many runs there are, and how many are stored"
    )
    run.set_defaults(act=_run)

    check = commands.add_parser("check", help="compare prediction and simulation on random problems",
                                description="Draws problems, runs each at smoke scale, and prints the worst "
                                "disagreement; exit status 1 when chance cannot explain it.")  # fmt: skip
    check.add_argument("name", metavar="NAME", help=NAME_HELP)
    check.add_argument(
        "--examples", type=int, default=50, metavar="N", help="random problems (default: %(default)s)"
    )
    check.add_argument("--seed", type=int, default=0, help="of the problems drawn (default: %(default)s)")
    check.add_argument(
        "--seeds", type=int, metavar="N", help="runs of each problem (default: smoke's own number)"
    )
    check.set_defaults(act=_check)

    about = "Reads records and stored runs; trains only with --run."
    ledger = commands.add_parser("claims", help="print every claim with its verdict", description=about)
    ledger.add_argument("names", metavar="NAME", nargs="*", help=f"{NAME_HELP}; all when left out")
    ledger.add_argument("--json", action="store_true", help="as a JSON list of objects")
    ledger.add_argument("--run", action="store_true", help="measure what has no record, at laptop scale")
    ledger.add_argument("--write", action="store_true", help="write book/recorded/verdicts.json")
    ledger.set_defaults(act=_claims)
    return parser


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _list(_: argparse.Namespace) -> int:
    names = contract.experiment_names()
    if not names:
        print("no experiments so far: a new file in sims/experiments is listed here")
    for name in names:
        print(f"{name}: {contract.experiment(name).question}")
        for scale in contract.SCALE_NAMES:
            plan = contract.plan(name, scale)
            loaded = recorded.load_recorded(plan.experiment.name, scale)
            cost = "not recorded"
            if loaded is not None:
                cost = f"recorded: {_duration(loaded[1]['wall_seconds'])} of runs on {loaded[1]['device']}"
                cost += "" if plan.matches(loaded[1]["preset"]) else " (for another preset)"
            n_configs, n_seeds = len(plan.configs), len(plan.seeds)
            print(f"  {scale:<7} {len(plan.runs):>5} runs = {n_configs} configs × {n_seeds} seeds; {cost}")
    return 0


def _settings(reference: str, written: Sequence[str]) -> dict[str, Any]:
    config_type = contract.experiment(reference).config_type
    settings: dict[str, Any] = {}
    for one in written:
        name, equals, text = one.partition("=")
        if not equals:
            raise ValueError(f"--set is {one!r}; it must be FIELD=VALUE.")
        settings[name.strip()] = fields.parse(config_type, name.strip(), text)
    return settings


def _run(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments.name, arguments.set)
    plan = contract.plan(arguments.name, arguments.scale, seeds=arguments.seeds, overrides=settings)
    if arguments.record and (settings or arguments.seeds is not None):
        raise ValueError("--record is for a scale's own preset; it goes neither with --set nor with --seeds.")
    if arguments.dry_run:
        engine.check_device(arguments.device)
        n_runs, n_stored = len(plan.runs), engine.count_stored(plan)
        print(f"{plan.experiment.name} at {plan.scale} scale: {n_runs} runs ({len(plan.configs)} configs × "
              f"{len(plan.seeds)} seeds), {n_stored} stored, {n_runs - n_stored} to make")  # fmt: skip
        return 0
    outcome = engine.run(
        arguments.name,
        arguments.scale,
        seeds=arguments.seeds,
        device=arguments.device,
        workers=arguments.workers,
        live=arguments.live or arguments.record,
        **settings,
    )
    about = outcome.provenance
    if about["recorded"]:
        changed = "has changed since" if about["code_changed"] else "is the same"
        revision = (about["revision"] or "unknown")[:10]
        print(f"{outcome.name} at {outcome.scale} scale, from the committed record of revision {revision}")
        print(f"the code {changed} (--live computes it anew)")
    else:
        made = f"{about['n_computed']} runs made, {about['n_stored']} from the store"
        cost = f"{_duration(about['wall_seconds'])} of runs on {about['device']}"
        print(f"{outcome.name} at {outcome.scale} scale: {made}; {cost}")
    for name in about.get("set_aside", []):
        print(f"a corrupt record was set aside as {name}, and its run made again")
    print(claims.table(outcome.claims))
    print(f"agreement: {outcome.agreement or 'no prediction to compare'}")
    if arguments.record:
        print(f"recorded in {recorded.write_recorded(outcome)}")
    return 0


def _repeat_command(reference: str, config: Any, seeds: int | None) -> str:
    """The command that runs one problem of `check` again."""
    smoke = contract.experiment(reference).scales["smoke"]
    words = ["python", "-m", "sims", "run", reference, "--scale", "smoke", "--live"]
    words += [] if seeds is None else ["--seeds", str(seeds)]
    for name in fields.kinds(type(config)):
        value = getattr(config, name)
        if name in smoke.grid or value != getattr(smoke.base, name):
            words += ["--set", f"{name}={fields.written(value)}"]
    return shlex.join(words)


def _check(arguments: argparse.Namespace) -> int:
    found = contract.experiment(arguments.name)
    if not hasattr(found.module, "example"):
        raise ValueError(
            f"experiment {found.name} has no example(rng), so that check cannot draw problems for it."
        )
    if arguments.examples < 1:
        raise ValueError(f"--examples is {arguments.examples}; it must be at least 1.")
    rng: np.random.Generator = streams.generator(found.name, "check", arguments.seed)
    worst: tuple[Agreement, Any] | None = None
    n_compared = 0
    for number in range(arguments.examples):
        config = found.module.example(rng)
        settings = {name: getattr(config, name) for name in fields.kinds(type(config))}
        outcome = engine.run(
            arguments.name, "smoke", seeds=arguments.seeds, live=True, progress=False, **settings
        )
        if outcome.agreement is None:
            raise ValueError(
                f"experiment {found.name} names no variable that must agree, so there is nothing to check."
            )
        n_compared += outcome.agreement.n
        if worst is None or outcome.agreement.worst_z > worst[0].worst_z:
            worst = outcome.agreement, config
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {arguments.examples}", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    assert worst is not None
    threshold = z_threshold(n_compared)
    agrees = worst[0].worst_z <= threshold
    drawn = f"{arguments.examples} random problems (seed {arguments.seed}), {n_compared} numbers compared"
    verdict = "agrees" if agrees else "DISAGREES"
    print(f"{found.name}: {drawn}: {verdict} (threshold z {threshold:.2f} for all together)")
    print(f"worst problem: {worst[0]}")
    print(f"to repeat it: {_repeat_command(arguments.name, worst[1], arguments.seeds)}")
    return 0 if agrees else 1


def _claims(arguments: argparse.Namespace) -> int:
    if arguments.write and arguments.names:
        raise ValueError("--write is for the whole ledger; it goes without names.")
    results = claims.ledger(arguments.run, arguments.names or None)
    if arguments.json:
        print(json.dumps(claims.as_objects(results), indent=1, ensure_ascii=False, allow_nan=False))
    else:
        print(claims.table(results))
    if arguments.write:
        print(f"written to {claims.write_verdicts(results)}", file=sys.stderr)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0 done, 1 disagreement, dead workers or divergence, 2 bad input,
    130 interrupted."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a Greek letter is no reason to stop
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        status: int = parsed.act(parsed)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        kept = f"finished runs are kept in {records.results_folder()}, the same command goes on from there"
        print(f"interrupted: {kept}", file=sys.stderr)
        return 130
    except (WorkersDied, ArithmeticError) as error:  # such as training that diverged
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
