-- Projects come and go: one that is removed keeps its row, since what it ran refers to its versions.

ALTER TABLE projects
    ADD COLUMN active boolean NOT NULL DEFAULT true, -- false: nothing new of it may start
    ADD COLUMN removed_at timestamptz;               -- its name is free; what it ran can be read
