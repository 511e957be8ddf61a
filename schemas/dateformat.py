"""Date formats such as `%Y/%m/%d`, as regular expressions that both RE2 (columns) and Python (file names) read."""

from __future__ import annotations

import re

WIDTH = {"Y": "{4}", "m": "{1,2}", "d": "{1,2}", "H": "{1,2}", "M": "{1,2}", "S": "{1,2}"}
_TOKENS = re.compile(r"%(.?)|([^%]+)", re.DOTALL)


def date_pattern(date_format: str) -> str:
    """Turn a date format into a pattern with one named group per directive, without anchors.

    Directives are %Y %m %d and, behind them, %H %M %S; `%%` is a per cent sign. Zero padding is optional, except
    where two directives touch: `%Y%m%d` wants eight digits. Raises ValueError saying what is allowed.

    >>> date_pattern("%Y/%m/%d")
    '(?P<Y>[0-9]{4})/(?P<m>[0-9]{1,2})/(?P<d>[0-9]{1,2})'
    >>> date_pattern("%Y%m%d")
    '(?P<Y>[0-9]{4})(?P<m>[0-9]{2})(?P<d>[0-9]{2})'
    """
    tokens = [match.groups() for match in _TOKENS.finditer(date_format)]
    seen: list[str] = []
    pattern = ""
    for at, (directive, literal) in enumerate(tokens):
        if literal is not None or directive == "%":
            pattern += re.escape(literal or "%")
        elif directive not in WIDTH or directive in seen:
            raise ValueError("takes each of %Y %m %d %H %M %S at most once")
        else:
            seen.append(directive)
            touches = any(0 <= beside < len(tokens) and tokens[beside][0] in WIDTH for beside in (at - 1, at + 1))
            width = "{2}" if touches and directive != "Y" else WIDTH[directive]
            pattern += f"(?P<{directive}>[0-9]{width})"
    if not {"Y", "m", "d"} <= set(seen):
        raise ValueError("must name the year, month and day: %Y, %m and %d")
    return pattern
