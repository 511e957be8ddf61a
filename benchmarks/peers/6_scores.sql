-- Scores of the dimensions of value, and the features with them: what tier rules can name.
CREATE OR REPLACE TEMP TABLE score AS {{scores}};
CREATE OR REPLACE TEMP VIEW scored AS SELECT f.*, s.* EXCLUDE (account_id, service_date) FROM feature f JOIN score s USING (account_id);
