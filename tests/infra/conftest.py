"""infra/ is no part of the package; it is imported from the checkout, after everything installed."""

from __future__ import annotations

import sys

from tests.clusters import ROOT

sys.path.append(str(ROOT))
