"""The only writers of durable state: each command is one transaction with its events.

A command locks rows in the order leases, batches, executions by id, cells; checks them against
`wtb_ray.states`; and either changes everything with its event rows, or raises and changes nothing. The row of a project is locked
alone, and shared, after all others, by what starts something of it.
"""

from wtb_ray.db import Database
from wtb_ray.store.audit import Audit
from wtb_ray.store.batches import Batches
from wtb_ray.store.branches import Branches
from wtb_ray.store.cells import Cells
from wtb_ray.store.collections import Collections
from wtb_ray.store.control import Control
from wtb_ray.store.environments import Environments, Venvs
from wtb_ray.store.events import Events
from wtb_ray.store.executions import Executions
from wtb_ray.store.files import Files
from wtb_ray.store.holds import Holding
from wtb_ray.store.idempotency import Idempotency
from wtb_ray.store.integrity import Integrity
from wtb_ray.store.leases import Leases
from wtb_ray.store.limits import Limits
from wtb_ray.store.operations import Operations
from wtb_ray.store.parking import Parkings
from wtb_ray.store.projects import Projects
from wtb_ray.store.retention import Retention
from wtb_ray.store.splits import Splits


class Store:
    """All nouns over one database pool."""

    def __init__(self, db: Database):
        self.db = db
        self.projects = Projects(db)
        self.environments = Environments(db)
        self.venvs = Venvs(db)
        self.executions = Executions(db)
        self.branches = Branches(db)
        self.splits = Splits(db)
        self.control = Control(db)
        self.parking = Parkings(db)
        self.operations = Operations(db)
        self.files = Files(db)
        self.holds = Holding(db)
        self.collections = Collections(db)
        self.cells = Cells(db)
        self.batches = Batches(db)
        self.leases = Leases(db)
        self.limits = Limits(db)
        self.events = Events(db)
        self.idempotency = Idempotency(db)
        self.retention = Retention(db)
        self.audit = Audit(db)
        self.integrity = Integrity(db)
