-- The execution tree: cells of a batch that run the same share an execution until their ways part.

ALTER TABLE batches
    ADD COLUMN share_prefix boolean NOT NULL DEFAULT true,
    ADD COLUMN interrupts text NOT NULL DEFAULT 'fail' CHECK (interrupts IN ('fail', 'wait'));
