"""The command line. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from typer.core import TyperCommand

from pipelines.signals import Signals
from schemas.errors import WattierError

if TYPE_CHECKING:
    from pipelines.config import Config
    from schemas.labels import Lang

EXIT_CODES = """Exit codes: 0 done; 1 unexpected error; 2 wrong usage, configuration, mapping or policy; 3 a landed file cannot
be read; 4 the audit stopped the publication; 5 another run is at work; 6 verify found mismatches; 7 rows read are not
accounted for; 8 the warehouse is damaged or of another shape."""

app = typer.Typer(
    help="Keeps every electricity customer in the right value tier, every day, from meter readings and payments.",
    epilog=EXIT_CODES, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

ConfigFile = Annotated[Path, typer.Option("--config", help="Configuration file.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
DEFAULT_CONFIG = Path("wattier.yaml")


class BeamCommand(TyperCommand):
    """A command that passes options on to Beam."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises the usage error of an option that is not ours with a hint at where Beam's go."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if hasattr(error, "possibilities"):  # NoSuchOption, which typer does not export
                option = vars(error)["option_name"]
                vars(error)["message"] += f". Is it Beam's? Those go after --: wattier {ctx.info_name} -- {option}"
            raise


def main() -> None:
    """Entry point: turns errors a user can act on into a message and an exit code."""
    # Beam says so of Google's client libraries, which nobody here asked for.
    logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
    try:
        app()
    except WattierError as error:
        print(f"wattier: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="Folder to set up; made if it is not there.")],
    registers: Annotated[
        bool, typer.Option("--registers", help="For cumulative registers in place of interval energy.")
    ] = False,
) -> None:
    """Write a commented configuration with source mappings, policy and capacity file into a folder."""
    from pipelines.templates import write_templates

    for path in write_templates(directory, registers=registers):
        print(f"wrote {path}")
    print(f"Next: let files land in {directory / 'landing'}, then: wattier run --config {directory / 'wattier.yaml'}")


@app.command()
def simulate(
    accounts: Annotated[int, typer.Option(help="Premises; about as many accounts.")],
    days: Annotated[int, typer.Option(help="Service days.")],
    out: Annotated[Path, typer.Option(help="Folder to land files in.")],
    start: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], help="First service day.", show_default="2025-01-01")
    ] = datetime(2025, 1, 1),  # noqa: DTZ001
    seed: Annotated[int, typer.Option(help="Equal seeds give equal files.")] = 1,
    file_format: Annotated[str, typer.Option("--format", help="csv or parquet.")] = "csv",
    plain: Annotated[
        bool, typer.Option("--plain", help="Nothing late, missing, doubled, corrected or faulty.")
    ] = False,
    registers: Annotated[
        bool, typer.Option("--registers", help="Meters show cumulative registers; see `wattier init --registers`.")
    ] = False,
    skip_days: Annotated[
        int, typer.Option(help="Leave out the files of the first days: to go on with a simulation.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Let a synthetic utility's files land, day by day."""
    from pipelines.simulate import Settings
    from pipelines.simulate import simulate as go

    form = cast(Literal["csv", "parquet"], file_format)
    settings = Settings(
        accounts, days, seed, start.date(), out, form, plain=plain, registers=registers, skip_days=skip_days
    )
    with _progress(quiet=as_json) as progress:
        done = iter(range(1, days + 1))
        summary = go(settings, lambda day: progress(f"simulating {day}", next(done), days))
    if as_json:
        print(json.dumps({"accounts": summary.accounts, "rows": dict(summary.rows), "files": dict(summary.files)}))
        return
    rows = ", ".join(f"{count:,} {source}" for source, count in summary.rows.items())
    print(f"{summary.accounts:,} accounts over {days} days in {out}: {rows} rows.")


@app.command(cls=BeamCommand, context_settings={"allow_extra_args": True})
def run(
    context: typer.Context,
    config: ConfigFile = DEFAULT_CONFIG,
    through: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Last service day to publish (default: the last complete one)."),
    ] = None,
    no_audit: Annotated[
        bool, typer.Option("--no-audit", help="Publish without the audit. Meant for measurements.")
    ] = False,
    override: Annotated[
        list[str] | None, typer.Option(help="Id of an expectation that may fail this once; it is recorded.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Take in what has landed and bring the marts up to date. Options after -- go to Beam."""
    loaded = _load(config)  # first: what a run imports takes a second
    from pipelines.run import run as go

    with _progress(quiet=as_json) as progress:
        report = go(
            loaded, through=through.date() if through else None, beam_options=context.args, audit=not no_audit,
            overrides=frozenset(override or ()), progress=progress,
        )  # fmt: skip
    if as_json:
        print(json.dumps(report.to_json()))
        return
    for source, c in report.counts.items():
        if not any(c.values()):
            continue
        again = f", {c['redriven']:,} pending before" if c["redriven"] else ""
        print(
            f"{source}: {c['read']:,} rows read{again} = {c['accepted']:,} accepted + {c['superseded']:,} superseded "
            f"+ {c['rejected']:,} rejected + {c['pending']:,} pending"
        )
    if report.redelivered:
        print(f"{report.redelivered} files had been delivered before and were left aside.")
    for mart in ("rejected", "pending"):
        if any(c[mart] for c in report.counts.values()):
            print(f"Why rows are {mart}: see the mart {'rejects' if mart == 'rejected' else mart}.")
    if report.unmatched:
        topics = f" From topics, by wattier stream, come {', '.join(loaded.of_topics)}." if loaded.of_topics else ""
        print(f"{report.unmatched} files in the landing folder are of no source, and were left aside.{topics}")
    if report.restated_from:
        changed = (
            f"{report.restated_tiers:,} stretches of tiers changed: see tier_restatements"
            if report.restated_tiers
            else "no tier changed"
        )
        few = f", {report.days_by_account} days for the accounts concerned alone" if report.days_by_account else ""
        print(f"Made anew from {report.restated_from}{few}: {changed}.")
    if report.held:
        print(f"Held back: {report.held}.")
    if report.published:
        reach = f"{report.days} service days made, through {report.through}" if report.through else "no service day yet"
        print(f"Published generation {report.generation}, {reach}.")
        if loaded.policy.capacity is None and any(version.strategy for version in loaded.policy.versions):
            print("Service actions are not limited: `capacity` in wattier.yaml names no file.")
        print(f"Marts: {Path(loaded.warehouse) / 'marts.duckdb'}")
    else:
        print(f"Nothing new has landed; generation {report.generation} stands.")


@app.command(cls=BeamCommand, context_settings={"allow_extra_args": True})
def stream(
    context: typer.Context,
    config: ConfigFile = DEFAULT_CONFIG,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Stop once this service day is published.")
    ] = None,
    attach: Annotated[
        bool, typer.Option("--attach", help="Only publish, for the job that was submitted last and is still at work.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the graph and Beam's options, and stop.")] = False,
    cut_seconds: Annotated[float, typer.Option(help="Seconds from one epoch to the next.", min=0.1)] = 5.0,
    cut_rows: Annotated[int, typer.Option(help="Rows after which an epoch ends early.", min=1)] = 1_000_000,
    publish_seconds: Annotated[
        float, typer.Option(help="Seconds after which also what closes no day is published.", min=0)
    ] = 900.0,
    flink: Annotated[
        str | None, typer.Option(help="URL of the Flink cluster's page: the job is stopped there in the end.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option(help="Id of an expectation that may fail; it is recorded.")
    ] = None,
    no_audit: Annotated[
        bool, typer.Option("--no-audit", help="Publish without the audit. Meant for measurements.")
    ] = False,
    stalled_seconds: Annotated[
        float, typer.Option(help="Seconds after which a partition that is waited for is told of.", min=1)
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Take in topics and landed files as they come, and publish each day as it closes. Options after -- go to Beam."""
    signals = Signals()  # first: what is imported takes seconds
    loaded = _load(config)
    from pipelines.stream import StreamSettings, Waiting, describe
    from pipelines.stream import stream as go

    settings = StreamSettings(
        until.date() if until else None, attach, cut_seconds, cut_rows, not no_audit, frozenset(override or ()), flink,
        publish_seconds, stalled_seconds,
    )  # fmt: skip
    if dry_run:
        for line in describe(loaded, context.args, settings):
            print(line)
        return
    for told in go(loaded, context.args, settings, signals.stopped.is_set, signals.asked, signals.submit):
        if isinstance(told, Waiting):
            print(told, file=sys.stderr, flush=True)
        else:
            print(json.dumps(vars(told)) if as_json else told, flush=True)


@app.command()
def status(config: ConfigFile = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Say what is published, and what waits."""
    loaded = _load(config)
    from pipelines.status import status as go

    facts = go(loaded)
    if as_json:
        print(json.dumps(facts, default=str))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<{width}}  {value}")


@app.command()
def verify(
    config: ConfigFile = DEFAULT_CONFIG,
    everything: Annotated[bool, typer.Option("--all", help="Compare every account.")] = False,
    sample: Annotated[int | None, typer.Option(help="Compare this many accounts, chosen by a seeded hash.")] = None,
    as_json: Json = False,
) -> None:
    """Recompute the published marts from the accepted events, by the definitions, and compare."""
    loaded = _load(config)
    from pipelines.status import check_published
    from pipelines.verify import verify as go
    from pipelines.warehouse import Warehouse

    warehouse = Warehouse(loaded.warehouse)
    check_published(warehouse, loaded.policy)
    store = Path(loaded.warehouse) / "verify" / f"mismatches-{warehouse.load().number:06d}.parquet"
    store.parent.mkdir(parents=True, exist_ok=True)
    report = go(str(warehouse.marts), loaded.policy, sample=sample, all_days=everything, store=store)
    print(json.dumps(report.to_json()) if as_json else str(report))
    if not report.ok:
        if not as_json:
            print(f"All mismatches: {store}")
        raise typer.Exit(6)


@app.command()
def report(
    config: ConfigFile = DEFAULT_CONFIG,
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: reports/ beside the marts, one for each publication).")
    ] = None,
    lang: Annotated[str, typer.Option(help="en or zh.")] = "en",
    accounts: Annotated[bool, typer.Option("--accounts", help="Also tell of single accounts, by their ids.")] = False,
    from_day: Annotated[
        datetime | None,
        typer.Option(
            "--from", formats=["%Y-%m-%d"], help="Day that migration is shown from (default: a month before)."
        ),
    ] = None,
    to_day: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], help="Day that it is shown to (default: the last one)."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what is published about tiers as one HTML file, to be read without a server or a network."""
    loaded, said = _load(config), _lang(lang)
    from pipelines.report import write_report

    path = write_report(
        Path(loaded.warehouse) / "marts.duckdb", out, lang=said, accounts=accounts,
        first=from_day.date() if from_day else None, last=to_day.date() if to_day else None, currency=loaded.currency,
    )  # fmt: skip
    print(json.dumps({"file": str(path)}) if as_json else f"wrote {path}")


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="One SQL statement; read only.")],
    config: ConfigFile = DEFAULT_CONFIG,
    as_known_at: Annotated[
        str | None,
        typer.Option(help="Ask what was published at a moment, such as 2026-03-01 or 2026-03-01T06:30, in UTC."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the published marts something, in SQL."""
    from schemas.errors import StateError

    loaded = _load(config)
    if as_known_at is not None:
        from pipelines.as_known import marts_at, moment_of

        with marts_at(loaded, moment_of(as_known_at)) as then:
            _ask(then, sql, as_json=as_json)
        return
    marts = Path(loaded.warehouse) / "marts.duckdb"
    if not marts.exists():
        raise StateError(f"{marts} is not there yet: nothing has been published. Start with `wattier run`.")
    _ask(marts, sql, as_json=as_json)


@app.command()
def explain(
    account: Annotated[str, typer.Argument(help="Id of the account.")],
    config: ConfigFile = DEFAULT_CONFIG,
    as_of: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Service day (default: the last one published).")
    ] = None,
    lang: Annotated[str, typer.Option(help="en or zh.")] = "en",
    as_json: Json = False,
) -> None:
    """Say why an account is in its tier, and what would move it."""
    loaded, said = _load(config), _lang(lang)
    from pipelines.explain import explain as go
    from pipelines.explain_text import as_text

    told = go(loaded, account, as_of.date() if as_of else None)
    print(json.dumps(told, default=str) if as_json else as_text(told, said))


@app.command(name="what-if", cls=BeamCommand, context_settings={"allow_extra_args": True})
def what_if(
    context: typer.Context,
    policy: Annotated[Path, typer.Argument(help="The policy to try: a whole policy file.")],
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First service day under it.")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last service day.")],
    config: ConfigFile = DEFAULT_CONFIG,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the marts that are made, and the comparison.")
    ] = None,
    accounts: Annotated[bool, typer.Option("--accounts", help="List the accounts that would move, in --out.")] = False,
    lang: Annotated[str, typer.Option(help="en or zh.")] = "en",
    as_json: Json = False,
) -> None:
    """Try another policy on past days: who would move. The marts stay as they are. Options after -- go to Beam."""
    loaded, said = _load(config), _lang(lang)
    from pipelines.what_if import what_if as go
    from pipelines.what_if_report import as_text
    from schemas.policy import load_policy

    with _progress(quiet=as_json) as progress:
        report = go(
            loaded, load_policy(policy), str(policy), first.date(), last.date(), out=out, accounts=accounts,
            beam_options=context.args, progress=progress,
        )  # fmt: skip
    print(json.dumps(report.to_json()) if as_json else as_text(report, said))
    if out is not None and not as_json:
        print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def _lang(text: str) -> Lang:
    """A language of the labels. Raises ConfigError."""
    from schemas.errors import ConfigError
    from schemas.labels import LANGS

    for lang in LANGS:
        if lang == text:
            return lang
    raise ConfigError(f"--lang {text!r}: must be {' or '.join(LANGS)}")


def _ask(marts: Path, sql: str, *, as_json: bool) -> None:
    """Print what a statement gives."""
    import duckdb

    from schemas.errors import ConfigError

    with duckdb.connect(str(marts), read_only=True) as con:
        con.execute("SET python_enable_replacements = false")  # else `FROM marts` is our variable, not a table
        try:
            relation: duckdb.DuckDBPyRelation | None = con.sql(sql)
            if relation is None:
                return
            if as_json:
                names = relation.columns
                print(json.dumps([dict(zip(names, row, strict=True)) for row in relation.fetchall()], default=str))
            else:
                relation.show(max_rows=200)
        except duckdb.Error as error:
            raise ConfigError(f"the query was refused: {error}") from None


@app.command()
def actions(
    config: ConfigFile = DEFAULT_CONFIG,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="Service day that the list follows from (default: the last published)."
        ),
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the whole list to this file.")] = None,
    lang: Annotated[str, typer.Option(help="en or zh.")] = "en",
    resource: Annotated[str | None, typer.Option(help="Only what takes a place of this resource.")] = None,
    as_json: Json = False,
) -> None:
    """List what to do for which customer on the day after."""
    from pipelines.actions import COLUMNS, listed_actions, notes, shown, value_unit, write_csv
    from pipelines.warehouse import Warehouse
    from schemas.actions import RESOURCES
    from schemas.errors import ConfigError

    said = _lang(lang)
    if resource is not None and resource not in RESOURCES:
        raise ConfigError(f"--resource {resource!r}: must be one of {', '.join(RESOURCES)}")
    loaded = _load(config)
    found = listed_actions(Path(loaded.warehouse) / "marts.duckdb", as_of.date() if as_of else None, resource)
    header = Warehouse(loaded.warehouse).load().header
    unit = value_unit(header, loaded.policy, found.day)
    if csv_file is not None:
        try:
            with csv_file.open("w", encoding="utf-8-sig", newline="") as out:  # spreadsheets know UTF-8 by its mark
                number = write_csv(out, found.rows, said, unit)
        except OSError as error:
            raise ConfigError(f"--csv {csv_file}: cannot be written: {error.strerror}") from None
        print(json.dumps({"file": str(csv_file), "rows": number}) if as_json else f"{number:,} actions in {csv_file}")
    elif as_json:
        print(json.dumps([dict(zip(COLUMNS, row, strict=True)) for row in found.rows], default=str))
    else:
        print(shown(found, said, unit))
    for note in notes(header, loaded.policy, found, said):
        print(note, file=sys.stderr if as_json else sys.stdout)


@app.command()
def gc(config: ConfigFile = DEFAULT_CONFIG, as_json: Json = False) -> None:
    """Remove generations, and files of stopped runs, that nothing can need."""
    from pipelines.warehouse import Warehouse

    loaded = _load(config)
    warehouse = Warehouse(loaded.warehouse)
    with warehouse.lock():
        files, size = warehouse.collect_garbage(loaded.settings.keep_generations)
    print(json.dumps({"files": files, "bytes": size}) if as_json else f"Removed {files:,} files, {size / 1e6:,.1f} MB.")


def _load(path: Path) -> Config:
    from pipelines.config import load_config

    return load_config(path)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal; silence elsewhere, and where JSON is asked for."""
    if quiet or not sys.stderr.isatty():
        yield lambda what, done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1)
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=max(of, 1))
