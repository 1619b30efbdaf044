"""`ctx-engine` with a fake engine inside: same arguments; the model's name chooses how it acts.

fake: answers of five words; endless: answers that never end; slow: never done loading; broken: fails to load;
stuck: never done closing.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from engine.config import EngineConfig
from engine.errors import ModelNotFoundError
from engine.serve import main
from engine.serve.loading import Progress
from tests.serve.fake_engine import ENDLESS, FakeEngine, Script


class StuckEngine(FakeEngine):
    def close(self) -> None:
        threading.Event().wait()


def load(config: EngineConfig, progress: Progress) -> Any:
    progress(f"loading {config.model}", 0.5)
    if config.model == "slow":
        threading.Event().wait()
    if config.model == "broken":
        raise ModelNotFoundError("there is no model 'broken': name one of fake, endless")
    if config.model == "stuck":
        return StuckEngine(config)
    if config.model == "endless":
        return FakeEngine(config, script=Script(words=ENDLESS, pause=0.001))
    return FakeEngine(config)


if __name__ == "__main__":
    main._load = load
    main._CLOSE_SECONDS = 0.2
    sys.exit(main.main())
