"""The one error for a model that cannot be used."""


class ModelError(ValueError):
    """A model that is not there, is no model, or is of the wrong kind. The message names it and says what to do."""
