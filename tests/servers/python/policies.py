"""What Ministack lacks to evaluate policies on one tenant's items: variables in conditions, and `dynamodb:LeadingKeys`.

It reaches into private functions, which is one more reason to pin the version. What it does not know stays unknown, and
so is refused.
"""

import json
import re

from ministack.core import iam_actions, iam_evaluator


def complete():
    conditions_met = iam_evaluator._conditions_met
    service_context = iam_actions.dynamodb_service_context

    def with_variables(conditions, context):
        def value(variable):
            found = iam_evaluator._resolve_condition_key(variable[1], context)
            return json.dumps(found)[1:-1] if isinstance(found, str) else variable[0]

        return conditions_met(json.loads(re.sub(r"\$\{([^}]*)\}", value, json.dumps(conditions))), context)

    def with_leading_keys(body):
        context = service_context(body)
        keys = leading_keys(json.loads(body)) if context else []
        return {**context, "dynamodb:LeadingKeys": keys} if keys else context

    iam_evaluator._conditions_met = with_variables
    iam_actions.dynamodb_service_context = with_leading_keys


def leading_keys(request):
    """Of all items that a request names, in tables whose partition key is the string `pk`.

    Each part of a transaction is judged by the keys of all. AWS judges it by its own, and so allows some that are refused
    here: those whose parts need different statements.
    """
    names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
    equals = re.findall(r"(#?\w+)\s*=\s*(:\w+)", request.get("KeyConditionExpression", ""))
    found = [values.get(value) for name, value in equals if names.get(name, name) == "pk"]
    parts = [part for item in request.get("TransactItems", []) for part in item.values()]
    tables = [table for table in request.get("RequestItems", {}).values() if "Keys" in table]
    for part in [request, *parts, *tables]:
        found += [item.get("pk") for item in [part.get("Key"), part.get("Item"), *part.get("Keys", [])] if item]
    return [value["S"] for value in found if value and "S" in value]
