"""The test cases: held-out sentences of the documentation, and questions people ask.

The same on every run of one interpreter; other versions of Python have other docstrings and so a
few other held-out sentences.
"""

from wtb_ray.examples.rag.corpus import corpus
from wtb_ray.model import Case

NATURAL = (
    ("How do I turn a Python object into a JSON string?", "json.dumps"),
    ("How can I join several path components into one path?", "os.path.join"),
    ("What deletes a whole folder with everything in it?", "shutil.rmtree"),
    ("How do I find files whose names match a wildcard pattern?", "glob.glob"),
    ("How do I compute the median of some numbers?", "statistics.median"),
    ("How do I pick a random element from a list?", "random.choice"),
    ("How can I shuffle a list in place?", "random.shuffle"),
    ("How do I count how often each element occurs?", "collections.Counter"),
    ("How do I find out the current working directory?", "os.getcwd"),
    ("How can I escape special characters so that text is safe in HTML?", "html.escape"),
    ("How do I make a random URL-safe token for a password reset link?", "secrets.token_urlsafe"),
    ("Which decorator caches the results of a function?", "functools.lru_cache"),
    ("How can I merge several sorted inputs into one sorted output?", "heapq.merge"),
    ("How do I make a deep copy of an object?", "copy.deepcopy"),
    ("How do I measure how long a small piece of code takes?", "timeit.timeit"),
    ("How do I get the greatest common divisor of integers?", "math.gcd"),
    ("How can I show the differences between two texts as a unified diff?", "difflib.unified_diff"),
    ("How do I split a command line the way a shell does?", "shlex.split"),
    ("How do I compare two digests without leaking timing?", "secrets.compare_digest"),
    ("How do I run a blocking function in another thread from a coroutine?", "asyncio.to_thread"),
    ("How can I get the current exception's traceback as a string?", "traceback.format_exc"),
    ("How do I decompress gzip data in memory?", "gzip.decompress"),
    ("How can I find where an executable is on the PATH?", "shutil.which"),
    ("How do I get the cartesian product of several iterables?", "itertools.product"),
    ("Which context manager ignores given exceptions?", "contextlib.suppress"),
    ("How do I replace what matches a regular expression in a string?", "re.sub"),
    ("How do I get the size of a file?", "os.path.getsize"),
    ("How can I copy a file together with its metadata?", "shutil.copy2"),
    ("How do I open a page in the web browser?", "webbrowser.open"),
    ("How can I read an environment variable with a default?", "os.getenv"),
    ("How do I get a sorted list out of any iterable?", "sorted"),
    ("How do I make a random UUID?", "uuid.uuid4"),
    ("How can I tell whether a year is a leap year?", "calendar.isleap"),
    ("How do I check that a string starts with a prefix?", "str.startswith"),
    (
        "How can I create a temporary directory that is removed afterwards?",
        "tempfile.TemporaryDirectory",
    ),
    ("How do I make an archive such as zip or tar of a folder?", "shutil.make_archive"),
    ("How do I suspend a coroutine for some seconds?", "asyncio.sleep"),
    ("How can I walk through a directory tree from top to bottom?", "os.walk"),
    ("How can I convert an integer to a binary string?", "bin"),
    ("How do I start following memory allocations?", "tracemalloc.start"),
    ("How do I find the n largest elements of a dataset?", "heapq.nlargest"),
    ("How can I move a file or folder to another place?", "shutil.move"),
    ("How do I register a function that runs when the program exits?", "atexit.register"),
    ("How do I split the extension off a path?", "os.path.splitext"),
    ("How do I get a function with some of its arguments already filled in?", "functools.partial"),
    ("How can I get the source code of a function as text?", "inspect.getsource"),
    ("What is the name of the host that this runs on?", "socket.gethostname"),
    ("How can I check whether two files have the same content?", "filecmp.cmp"),
    ("How do I create a directory and all its missing parents?", "os.makedirs"),
    ("How many days does a given month have?", "calendar.monthrange"),
    ("How much memory does an object take, in bytes?", "sys.getsizeof"),
    ("How can I bring Unicode text into a normal form?", "unicodedata.normalize"),
)
"""Questions as people ask them, and the one object that answers each."""


def cases() -> list[Case]:
    """The held-out sentences, then the natural questions."""
    held_out = [_case("docs", each.name, each.question) for each in corpus().held_out]
    return held_out + [_case("natural", name, question) for question, name in NATURAL]


def _case(kind: str, name: str, question: str) -> Case:
    return Case(
        id=f"{kind}:{name}",
        input={"question": question},
        expected=name,
        metadata={"kind": kind, "module": name.rpartition(".")[0] or "builtins"},
    )
