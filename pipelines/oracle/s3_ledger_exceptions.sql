-- definitions.md, "Ledger exceptions": as of the last service day, events without an effect, or with an odd one.
CREATE OR REPLACE TABLE oracle.ledger_exceptions AS
WITH last AS (
    SELECT account_id, max(as_of) AS as_of FROM oracle.ledger_as_of GROUP BY account_id
),
there AS (
    SELECT
        e.*,
        event_type IN ('payment', 'prepayment', 'write_off') OR (event_type = 'adjustment' AND amount_minor < 0) AS pays
    FROM oracle.existing_event e
    SEMI JOIN last USING (account_id, as_of)
),
closing AS (
    SELECT account_id, closed_on
    FROM oracle.account
    WHERE (is_earliest OR valid_from <= getvariable('through')) AND (valid_to IS NULL OR getvariable('through') <= valid_to)
),
reversing AS (
    SELECT
        r.account_id,
        r.event_id,
        r.ref_event_id,
        c.event_id IS NOT NULL AS is_there,
        coalesce(c.pays, false) AS pays,
        r.amount_minor <> 0 AND abs(r.amount_minor) <> abs(c.amount_minor) AS is_other_amount,
        row_number() OVER (PARTITION BY r.account_id, r.ref_event_id ORDER BY r.event_date, r.event_id) AS nth
    FROM there r
    LEFT JOIN there c ON c.account_id = r.account_id AND c.event_id = r.ref_event_id
    WHERE r.event_type = 'reversal' AND r.ref_event_id <> ''
),
numbered AS (
    SELECT
        account_id,
        event_id,
        bill_number,
        row_number() OVER (PARTITION BY account_id, bill_number ORDER BY due_date, event_id) AS nth
    FROM oracle.debit
    SEMI JOIN last USING (account_id, as_of)
    WHERE is_bill
),
standing AS (
    SELECT c.account_id, c.event_id, c.event_date, c.bill_number, t.event_type, k.closed_on
    FROM oracle.credit c
    SEMI JOIN last USING (account_id, as_of)
    JOIN there t USING (account_id, event_id)
    LEFT JOIN closing k USING (account_id)
),
-- What is left in the pool is of its last credits: those with less behind them than is left.
unallocated AS (
    SELECT p.account_id, p.event_id
    FROM (
        SELECT *, max(upto_minor) OVER (PARTITION BY account_id) - upto_minor AS behind_minor
        FROM oracle.pooled
        SEMI JOIN last USING (account_id, as_of)
    ) p
    JOIN oracle.balance b USING (account_id, as_of)
    WHERE p.behind_minor < b.unallocated_minor
),
found (account_id, event_id, reason, named_id, closed_on) AS (
    SELECT
        account_id,
        event_id,
        CASE
            WHEN NOT is_there THEN 'reversal_of_unknown'
            WHEN NOT pays THEN 'reversal_of_no_credit'
            ELSE 'reversal_again'
        END,
        ref_event_id,
        NULL::DATE
    FROM reversing
    WHERE NOT pays OR nth > 1
    UNION ALL
    SELECT account_id, event_id, 'reversal_amount_differs', ref_event_id, NULL
    FROM reversing
    WHERE pays AND nth = 1 AND is_other_amount
    UNION ALL
    SELECT account_id, event_id, 'conflicting_event', NULL, NULL
    FROM there t
    WHERE EXISTS (
        FROM oracle.ledger_event v
        WHERE v.account_id = t.account_id
            AND v.event_id = t.event_id
            AND v.event_date <= t.as_of
            AND v.revision = t.revision
            AND (
                v.event_type, v.event_date, v.due_date, v.amount_minor, coalesce(v.bill_id, ''), coalesce(v.ref_event_id, ''),
                v.priority
            ) IS DISTINCT FROM (
                t.event_type, t.event_date, t.due_date, t.amount_minor, coalesce(t.bill_id, ''), coalesce(t.ref_event_id, ''),
                t.priority
            )
    )
    UNION ALL
    SELECT account_id, event_id, 'bill_unknown', bill_number, NULL
    FROM standing s
    WHERE bill_number IS NOT NULL
        AND NOT EXISTS (FROM numbered b WHERE b.account_id = s.account_id AND b.bill_number = s.bill_number)
    UNION ALL
    SELECT account_id, event_id, 'bill_number_twice', bill_number, NULL FROM numbered WHERE nth > 1
    UNION ALL
    SELECT account_id, event_id, 'closed_account_pays', NULL, closed_on
    FROM standing
    SEMI JOIN unallocated USING (account_id, event_id)
    WHERE event_type IN ('payment', 'prepayment') AND event_date > closed_on
    UNION ALL
    SELECT d.account_id, d.event_id, 'closed_account_owes', NULL, k.closed_on
    FROM oracle.debit_state d
    SEMI JOIN last l ON l.account_id = d.account_id AND l.as_of = d.as_of
    JOIN closing k ON k.account_id = d.account_id
    WHERE d.open_minor > 0 AND d.due_date < getvariable('through') AND k.closed_on < getvariable('through')
    UNION ALL
    SELECT account_id, event_id, 'refund_beyond_credit', NULL, NULL
    FROM oracle.debit_state
    SEMI JOIN last USING (account_id, as_of)
    WHERE NOT is_bill AND open_minor > 0
    UNION ALL
    SELECT account_id, event_id, 'beyond_limit', NULL, NULL
    FROM there t
    ANTI JOIN oracle.within_limit w
        ON w.account_id = t.account_id AND w.as_of = t.as_of AND w.event_id = t.event_id
)
SELECT
    f.account_id,
    f.event_id,
    f.reason,
    t.event_type,
    t.event_date,
    t.amount_minor,
    f.named_id,
    f.closed_on
FROM found f
JOIN there t USING (account_id, event_id)
SEMI JOIN oracle.compared_account k ON k.account_id = f.account_id;
