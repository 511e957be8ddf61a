"""Key columns that marts share."""

from __future__ import annotations

from schemas.fields import DAY, ID, Column

ACCOUNT = Column("account_id", ID, "Account", key=True, privacy="pseudonymous")
DATE = Column("service_date", DAY, "Service day: the local calendar day", key=True)
