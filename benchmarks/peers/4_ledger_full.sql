-- (a) The ledger from all events.
CREATE OR REPLACE TEMP VIEW some_bill AS FROM bill;
CREATE OR REPLACE TEMP VIEW some_credit AS FROM credit ANTI JOIN reversal USING (credit_key);
