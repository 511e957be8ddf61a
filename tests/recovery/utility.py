"""A small utility with a publication, and deliveries that have not landed yet. It can be put back as it was."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import duckdb

from pipelines.marts import ACCEPTED
from pipelines.warehouse import Warehouse
from schemas.marts import MARTS
from tests.recovery.commands import Commands, Ended

LAST_LANDED = "20250203"
"""Files of later days wait: a correction, late and new readings, and a day that is not there yet."""

CORRECTION = "M000000000,2025-01-20,99999.000,D,9\n"
"""A row of a waiting file that restates two weeks of a published month."""

Rows = dict[str, list[tuple[object, ...]]]
"""All published rows, by mart."""


@dataclass(frozen=True)
class Utility:
    """`folder` is the configured folder; `saved` is a copy of it; `later` has the deliveries that wait."""

    folder: Path
    saved: Path
    later: Path
    commands: Commands

    @classmethod
    def build(cls, root: Path, commands: Commands) -> Utility:
        """Simulate, let the first days land, publish them, and save all that."""
        new = cls(root / "utility", root / "saved", root / "later", commands)
        new.must(commands(root, "init", str(new.folder)))
        config, policy = new.folder / "wattier.yaml", new.folder / "policy.yaml"
        config.write_text(config.read_text().replace("shards: 4", "shards: 2"))
        policy.write_text(policy.read_text().replace("reject_share_limit_ppm: 20000", "reject_share_limit_ppm: 100000"))
        size = ("--accounts", "30", "--days", "37", "--start", "2025-01-01", "--seed", "5")
        new.must(new("simulate", *size, "--out", "landing"))
        for file in sorted(new.folder.glob("landing/*/*")):
            if file.stem[-8:] > LAST_LANDED:
                (new.later / file.parent.name).mkdir(parents=True, exist_ok=True)
                shutil.move(file, new.later / file.parent.name / file.name)
        with max(new.later.glob("readings/*")).open("a") as file:
            file.write(CORRECTION)
        new.must(new("run"))
        shutil.copytree(new.folder, new.saved)
        return new

    def __call__(self, *arguments: str, **options: object) -> Ended:
        """Run a command in the folder."""
        return self.commands(self.folder, *arguments, **options)  # type: ignore[arg-type]

    @staticmethod
    def must(ended: Ended) -> Ended:
        """The command must have gone well."""
        assert ended.code == 0, f"{ended.out}\n{ended.err}"
        return ended

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse"

    def restore(self) -> None:
        """Put the folder back as it was saved. In its place: the views of marts.duckdb name absolute paths."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.saved, self.folder)

    def land(self) -> None:
        """Let the waiting deliveries land."""
        shutil.copytree(self.later, self.folder / "landing", dirs_exist_ok=True)

    def generation(self) -> int:
        """The generation that stands."""
        return Warehouse(str(self.warehouse)).load().number

    def rows(self) -> Rows:
        """Every published row of every mart and of the accepted log, but for the clock's time of the run."""
        with duckdb.connect(str(self.warehouse / "marts.duckdb"), read_only=True) as con:
            return {
                name: con.sql(f"SELECT COLUMNS(lambda c: c <> 'started_at') FROM {name} ORDER BY ALL").fetchall()
                for name in (*MARTS, *ACCEPTED)
            }

    def orphans(self) -> list[str]:
        """Files of the warehouse that belong to no generation on disk and are not a reader's."""
        warehouse = Warehouse(str(self.warehouse))
        numbers = [int(folder.name) for folder in (self.warehouse / "generations").iterdir()]
        assert max(numbers) == warehouse.load().number
        kept = {"current.json", "marts.duckdb", ".lock"}
        for number in numbers:
            folder = warehouse.folder(number)
            tables = json.loads((self.warehouse / folder / "header.json").read_text())["tables"]
            kept |= {entry.path for entry in warehouse.read(number).entries}
            kept |= {f"{folder}/header.json", *(f"{folder}/{name}.arrow" for name in tables)}
        files = {str(f.relative_to(self.warehouse)) for f in self.warehouse.rglob("*") if f.is_file()}
        missing = {entry.path for entry in warehouse.load().entries} - files
        assert not missing
        return sorted(f for f in files - kept if not f.startswith(("data_docs/generation-", "data_docs/index.html")))
