"""What a client does all the while: set, get and delete, each checked against what it knows.

Says `ok` for every ten that went well, and `error MILLISECONDS-SINCE-1970 WORDS` for each that did
not. What was refused may have been done or not, so from then on either is right. A value that is
neither is `wrong`. Ends when standard input does.
"""

import itertools
import sys
import threading
import time

KEYS = 100


class Refused(Exception):
    """The client says no, in words of its own."""


def run(name, set_value, get_value, delete_key):
    ending = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ending.set()), daemon=True).start()
    # What may be there: one value or None, and more after an error.
    known = {f"{name}-{number}": {None} for number in range(KEYS)}
    went_well = 0

    def tell(kind, what):
        print(kind, int(time.time() * 1000), " ".join(str(what).split()), flush=True)

    def change(key, after, what, *arguments):
        known[key].add(after)
        if not what(*arguments):
            raise Refused(f"{what.__name__} of {key} says no")
        known[key] = {after}

    for number in itertools.count():
        if ending.is_set():
            break
        key = f"{name}-{number * 37 % KEYS}"
        value = f"value-{number}"
        try:
            change(key, value, set_value, key, value)
            found = get_value(key)
            if found is None:
                raise Refused(f"get of {key} finds nothing")
            if found not in known[key]:
                tell("wrong", f"{key}: {found}, not {known[key]}")
            if number % 5 == 0:
                change(key, None, delete_key, key)
                if (found := get_value(key)) is not None:
                    tell("wrong", f"{key}: {found}, though it was deleted")
            went_well += 1
            if went_well % 10 == 0:
                tell("ok", went_well)
        except Exception as error:
            tell("error", f"{type(error).__name__}: {error}")
            time.sleep(0.1)
