-- Answers that a case brings along for what its nodes ask, and deadlines of executions of no batch.

ALTER TABLE cases ADD COLUMN answers text;                            -- JSON list; null: it has none
ALTER TABLE executions ADD COLUMN deadline_s double precision CHECK (deadline_s > 0);
