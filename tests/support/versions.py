"""An application that changes from one version to the next, and data of it in a directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from diptych import App, Db
from diptych.durable import DataDirectory
from diptych.engine.engine import Engine, layout_bytes
from diptych.engine.opening import migrate, save
from diptych.engine.recovery import Action
from diptych.engine.starting import decide_on, find_base, look_at_log
from diptych.errors import ConfigurationError
from diptych.memory import Region
from diptych.store.database import SCRATCH_BYTES


@contextmanager
def region_for(app: App, capacities: Mapping[str, int] | None = None) -> Iterator[Region]:
    with Region.create(layout_bytes(app, capacities), scratch_bytes=SCRATCH_BYTES) as region:
        yield region


def store(app: App, path: Path, fill: Callable[[Db], None]) -> None:
    """Data of `app`, filled in one transaction, as the newest checkpoint of a directory."""
    with region_for(app) as region, DataDirectory.open(path, app.name) as directory:
        engine = Engine.create(app, region, grow=region.allocate, history=1)
        engine.transact(fill)
        engine.verify()
        save(app.name, directory, region, engine.layout)


@contextmanager
def opened(app: App, path: Path, capacities: Mapping[str, int] | None = None) -> Iterator[Engine]:
    """What a start of `app` makes of a directory without a log.

    Errors: EvolutionError, ConfigurationError, and what a migration raises.
    """
    with region_for(app, capacities) as region:
        with DataDirectory.open(path, app.name) as directory:
            base = find_base(app, directory, region, capacities, lambda: None)
            decision = decide_on(base, look_at_log(directory, base), directory, "")
            if decision.action is Action.REFUSE:
                raise ConfigurationError("\n".join([*base.damage, decision.message]))
            assert decision.action is Action.LOAD
            if base.migrates:
                assert base.checkpoint is not None
                assert base.examined is not None
                migrate(
                    app, base.checkpoint, base.examined, region, history=2, capacities=capacities
                )
                save(app.name, directory, region, base.examined.layout)
        engine = Engine.recover(app, region, grow=region.allocate, history=2, capacities=capacities)
        engine.verify()
        yield engine
