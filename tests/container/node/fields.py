"""Fields of a Kubernetes object, each of which has to be understood.

A field that nobody has asked for when the object is closed is an error: what a cluster would do with
it, this directory does not know.
"""


class Unsupported(Exception):
    """The object asks for something that is not done here."""


class Fields:
    """A map of an object. `path` says where it is, for messages.

        with Fields(container, "container vm") as fields:
            name = fields.take("name", str)
    """

    def __init__(self, values, path):
        if not isinstance(values, dict):
            raise Unsupported(f"{path}: {values!r} is not a map")
        self.path = path
        self._left = dict(values)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None:
            self.close()

    def close(self):
        """No field may be left."""
        if self._left:
            left = ", ".join(f"{key}: {value!r}" for key, value in self._left.items())
            raise Unsupported(f"{self.path} has fields that are not understood: {left}")

    def take(self, key, kind, default=...):
        """The value of a field, of the type `kind`. Without a default it has to be there."""
        value = self._left.pop(key, None)
        if value is None:
            if default is ...:
                raise Unsupported(f"{self.path} has no {key}")
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise Unsupported(f"{self.path}: {key}: {value!r} is no {kind.__name__}")
        return value

    def expect(self, key, *allowed):
        """A field that may be absent, or have one of these values."""
        value = self._left.pop(key, None)
        if value is not None and value not in allowed:
            raise Unsupported(f"{self.path}: {key} is {value!r}, which is not done here")
        return value

    def ignore(self, *keys):
        """Fields that change nothing on the node."""
        for key in keys:
            self._left.pop(key, None)

    def below(self, key, default=...):
        """A field that is a map, as Fields."""
        return Fields(self.take(key, dict, default), f"{self.path}.{key}")

    def each(self, key):
        """A field that is a list of maps, each as Fields; named by its name where it has one."""
        for number, value in enumerate(self.take(key, list, [])):
            name = value.get("name", number) if isinstance(value, dict) else number
            yield Fields(value, f"{self.path}.{key}[{name}]")

    def strings(self, key):
        """A field that is a list of texts."""
        values = self.take(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise Unsupported(f"{self.path}: {key}: {values!r} are not all texts")
        return values

    def keys(self):
        """The names of what is left."""
        return list(self._left)
