"""What Ministack lacks to evaluate policies on what is one tenant's: variables, `dynamodb:LeadingKeys`, the parameters
that one request names, and the use of a key by Parameter Store; and on rules: their names on the default bus, and
`events:TargetArn`.

It reaches into private functions, which is one more reason to pin the version. What it does not know stays unknown, and
so is refused.
"""

import dataclasses
import json
import re

from ministack.core import iam_actions, iam_evaluator
from ministack.services import ssm
from parameters import STANDARD


def complete():
    first_match = iam_evaluator._first_match
    service_context = iam_actions.dynamodb_service_context
    extract_resource_arn = iam_actions.extract_resource_arn
    enforce = iam_evaluator.enforce

    def with_variables(context, statements, effect):
        return first_match(context, [resolved(statement, context) for statement in statements], effect)

    def with_leading_keys(body):
        context = service_context(body)
        keys = leading_keys(json.loads(body)) if context else []
        return {**context, "dynamodb:LeadingKeys": keys} if keys else context

    def with_parameters(service, method, path, headers, body, query_params, region, account):
        resource = extract_resource_arn(service, method, path, headers, body, query_params, region, account)
        if service == "events":
            resource = rule(json.loads(body), region, account) or resource
        return Resource(resource, json.loads(body)) if service in ("events", "ssm") else resource

    def each(access_key, action, service, region, resource_arn="*", service_context=None):
        if not isinstance(resource_arn, Resource):
            return enforce(access_key, action, service, region, resource_arn, service_context)
        if service == "events":
            # Of several only the first: nobody here sends more.
            target = next(iter(resource_arn.request.get("Targets", [])), {})
            context = {**(service_context or {}), "events:TargetArn": target.get("Arn")}
            return enforce(access_key, action, service, region, str(resource_arn), context)
        checks = parameters(action, resource_arn) + uses_of_keys(action, resource_arn.request, region)
        refused = (
            enforce(access_key, action, action.split(":")[0], region, resource, {**service_context, **context})
            for action, resource, context in checks
        )
        return next(filter(None, refused), None)

    iam_evaluator._first_match = with_variables
    iam_actions.dynamodb_service_context = with_leading_keys
    iam_actions.extract_resource_arn = with_parameters
    iam_evaluator.enforce = each


class Resource(str):
    """What Ministack takes for the resource of a request to Parameter Store or EventBridge, with the request."""

    def __new__(cls, resource, request):
        new = super().__new__(cls, resource)
        new.request = request
        return new


def rule(request, region, account):
    """The rule that a request is about, if it is about one. On the default bus it has no bus in its name."""
    name, bus = request.get("Rule") or request.get("Name"), request.get("EventBusName", "default")
    path = name if bus == "default" else f"{bus}/{name}"
    return name and f"arn:aws:events:{region}:{account}:rule/{path}"


def resolved(statement, context):
    def value(variable):
        found = iam_evaluator._resolve_condition_key(variable[1], context)
        return json.dumps(found)[1:-1] if isinstance(found, str) else variable[0]

    text = json.dumps([statement.resources, statement.not_resources, statement.conditions])
    resources, not_resources, conditions = json.loads(re.sub(r"\$\{([^}]*)\}", value, text))
    return dataclasses.replace(statement, resources=resources, not_resources=not_resources, conditions=conditions)


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


def names(request):
    return [ssm._split_selector(name)[0] for name in request.get("Names", [request.get("Name")]) if name]


def parameters(action, resource):
    """A request is allowed if it is on each parameter that it names. One for a path is on the path, whatever is below."""
    asked = names(resource.request) or [path for path in [resource.request.get("Path")] if path]
    return [(action, ssm._param_arn(name), {}) for name in asked] or [(action, str(resource), {})]


def uses_of_keys(action, request, region):
    """What Parameter Store asks of KMS in the name of whoever asks it, telling it of which parameter.

    A key is known by its ARN. The one that is the account's for Parameter Store is open to all in the account.
    """
    if action == "ssm:PutParameter":
        stored = ssm._parameters.get(request.get("Name"), {})
        advanced = "Advanced" in [request.get("Tier"), stored.get("Tier")] or len(request["Value"].encode()) > STANDARD
        uses = [("kms:GenerateDataKey" if advanced else "kms:Encrypt", request.get("KeyId"), request.get("Name"))]
    else:
        asked, path = names(request), request.get("Path")
        below = path and path.rstrip("/") + "/"
        read = [stored for name, stored in ssm._parameters.items() if name in asked or below and name.startswith(below)]
        uses = [("kms:Decrypt", stored["KeyId"], stored["Name"]) for stored in read if request.get("WithDecryption")]
    via = {"kms:ViaService": f"ssm.{region}.amazonaws.com"}
    return [
        (operation, key, {**via, "kms:EncryptionContext:PARAMETER_ARN": ssm._param_arn(name)})
        for operation, key, name in uses
        if key and key != "alias/aws/ssm"
    ]
