"""The KServe model server over a ModelBundle. Read in this order: __main__, server, model, routes, v1, v2, tap."""
