-- What runners run in; executions and steps say it of themselves.

ALTER TABLE leases ADD COLUMN environment text;
