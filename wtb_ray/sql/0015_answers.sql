-- Answers that a case brings along for what its nodes ask.

ALTER TABLE cases ADD COLUMN answers text;                            -- JSON list; null: it has none
