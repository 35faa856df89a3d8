"""A node's answer to a population query: whom it hosts, or first which ids are in its own data."""

from __future__ import annotations

from flwr.app import Context, RecordDict

from client.config import ClientConfig, client_config
from client.deployed.own_data import Agreed, ids_digest, keep_agreement, own_ids
from client.node import node_of, store_of
from models.kernels.prepare import prepare
from protocol.messages import hosted_content, read_query
from protocol.own_data import own_content, read_agreed
from protocol.requests import Agreement, PopulationQuery
from settings.options import OptionError, require


def introduce(content: RecordDict, context: Context) -> RecordDict:
    """Begin the node's state in the run that the query names, or go on with it, and say whom the node hosts.

    Raises ``OptionError`` where the node cannot take part, among other reasons because the run is resumed and the
    node's state in it is gone.
    """
    prepare()
    config, query = client_config(context.run_config, context.node_config), read_query(content)
    if config.node.data:
        agreement = read_agreed(content)
        if agreement is None:
            return own_content(own_ids(config))
        _keep(agreement, query, config, context)
    elif query.run:
        store = store_of(context, config, query.run)
        with store.begin():
            store.begin_run(query.resumed_at, afresh=query.afresh)
    return hosted_content(node_of(context, query.run).hosted(query.attack_metrics))


def _keep(agreement: Agreement, query: PopulationQuery, config: ClientConfig, context: Context) -> None:
    require(bool(query.run), "run", query.run, "the name of the run whose ids are agreed on")
    own = own_ids(config)
    if (len(agreement.users), len(agreement.items)) != (len(own.users), len(own.items)):
        raise OptionError("data, in this node's configuration: it has changed while its ids were being agreed on.")
    store = store_of(context, config, query.run)
    with store.begin():
        store.begin_run(query.resumed_at, afresh=query.afresh)
        keep_agreement(Agreed(agreement, ids_digest(own)), store)
