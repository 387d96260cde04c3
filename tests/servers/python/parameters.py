"""What AWS's Parameter Store refuses and Ministack's does not, and the events by which AWS tells of changes.

It reaches into private functions, which is one more reason to pin the version. Where AWS promises nothing, such as an
order, what is answered here is the least convenient.
"""

import hashlib
import json
import re

from ministack.core import responses
from ministack.services import eventbridge, ssm

STANDARD, ADVANCED, VERSIONS = 4096, 8192, 100
# A name that has levels begins with a slash, and no level is empty.
NAME = re.compile(r"[\w.-]+|(/[\w.-]+)+", re.ASCII)
# With what comes before it in the parameter's ARN.
LONGEST_NAME = 1011


class Refused(Exception):
    """An error's code, and what it says."""


def complete():
    lenient = ssm.handle_request
    strict = {
        "DeleteParameter": delete,
        "DeleteParameters": delete_all,
        "GetParameterHistory": history,
        "GetParameters": get,
        "GetParametersByPath": get_by_path,
        "LabelParameterVersion": label,
        "PutParameter": put,
        "UnlabelParameterVersion": unlabel,
    }

    async def handle_request(method, path, headers, body, query_params):
        answer = strict.get(headers.get("x-amz-target", "").removeprefix("AmazonSSM."))
        if answer is None:
            return await lenient(method, path, headers, body, query_params)
        try:
            return answer(json.loads(body))
        except Refused as refused:
            return responses.error_response_json(*refused.args)

    ssm.handle_request = handle_request


def put(request):
    name, value, stored = request.get("Name", ""), request.get("Value", ""), ssm._parameters.get(request.get("Name"))
    kind = request.get("Type") or (stored or {}).get("Type")
    require(1 <= len(value), "Value is empty")
    require(NAME.fullmatch(name), "Name is no path of letters, digits and .-_")
    require(len(ssm._param_arn(name)) <= LONGEST_NAME, f"Name is longer than {LONGEST_NAME} with its ARN")
    require(name.count("/") <= 15, "Name has more than 15 levels", "HierarchyLevelLimitExceededException")
    require(not re.search(r"\{\{.*\}\}", value, re.DOTALL), "Value can't nest another parameter")
    require(kind == "SecureString" or not request.get("KeyId"), "KeyId is for SecureString")
    pattern = request.get("AllowedPattern") or (stored or {}).get("AllowedPattern", "")
    require(re.search(pattern, value), "Value doesn't match AllowedPattern", "ParameterPatternMismatchException")
    updates = stored and request.get("Overwrite")
    if updates:
        versions = ssm._parameter_history[name]
        held = len(versions) == VERSIONS and versions[0]["Labels"]
        require(kind == stored["Type"], "A parameter keeps its type", "HierarchyTypeMismatchException")
        require(not held, "The oldest version has a label", "ParameterMaxVersionLimitExceeded")
    kept = {"Tier": tier(request, stored if updates else None), "AllowedPattern": pattern}
    answer = ssm._put_parameter({**request, **kept})
    if succeeded(answer):
        del ssm._parameter_history[name][:-VERSIONS]
        tell("Update" if updates else "Create", ssm._parameters[name])
    return answer


def tier(request, stored):
    """What is kept and answered, which is never that Parameter Store was asked to choose."""
    size, advanced = len(request["Value"].encode()), bool(stored) and stored["Tier"] == "Advanced"
    asked = request.get("Tier") or ssm._default_tier(request, request["Value"], stored)
    if asked == "Intelligent-Tiering":
        asked = "Advanced" if advanced or size > STANDARD or request.get("Policies") else "Standard"
    require(not (advanced and asked == "Standard"), "A parameter stays advanced once it is")
    require(size <= (ADVANCED if asked == "Advanced" else STANDARD), f"Value is too large for {asked}")
    return asked


def get(request):
    names = request.get("Names", [])
    require(1 <= len(names) <= 10, "Names are 1 to 10")
    # Whether versions of one parameter are duplicates is not documented.
    require(len({ssm._split_selector(name)[0] for name in names}) == len(names), "Names has duplicates")
    found = content(ssm._get_parameters(request))
    return responses.json_response({**found, "Parameters": sorted(found["Parameters"], key=scattered)})


def get_by_path(request):
    """In an order that is the same for every request and says nothing, beginning with a page that has nothing in it:
    fewer than were asked for, and even none, does not mean that there are no more.
    """
    require(request.get("Path", "").startswith("/"), "Path begins with a slash")
    size, after = limit(request, 10), request.get("NextToken")
    below = content(ssm._get_parameters_by_path({**request, "NextToken": None, "MaxResults": len(ssm._parameters) + 1}))
    rest = sorted((found for found in below["Parameters"] if scattered(found) > (after or "")), key=scattered)
    if after is None and len(rest) > size:
        return responses.json_response({"Parameters": [], "NextToken": "0"})
    page = {"Parameters": rest[:size]}
    # What was written or deleted between two pages moves nothing from one to the other.
    more = {"NextToken": scattered(rest[size - 1])} if len(rest) > size else {}
    return responses.json_response(page | more)


def history(request):
    limit(request, 50)
    return ssm._get_parameter_history(request)


def delete(request):
    return delete_with(ssm._delete_parameter, request, [request.get("Name")])


def delete_all(request):
    return delete_with(ssm._delete_parameters, request, request.get("Names", []))


def delete_with(answer, request, names):
    stored = [ssm._parameters.get(name) for name in names]
    answer = answer(request)
    for parameter in stored:
        if parameter and parameter["Name"] not in ssm._parameters:
            tell("Delete", parameter)
    return answer


def label(request):
    answer = ssm._label_parameter_version(request)
    if succeeded(answer):
        tell("LabelParameterVersion", ssm._parameters[request["Name"]])
    return answer


def unlabel(request):
    versions = ssm._parameter_history.get(request.get("Name"))
    require(versions, "No such parameter", "ParameterNotFound")
    version = next((version for version in versions if version["Version"] == request.get("ParameterVersion")), None)
    require(version, "No such version", "ParameterVersionNotFound")
    removed = [label for label in request["Labels"] if label in version["Labels"]]
    version["Labels"][:] = [label for label in version["Labels"] if label not in removed]
    invalid = [label for label in request["Labels"] if label not in removed]
    return responses.json_response({"RemovedLabels": removed, "InvalidLabels": invalid})


def require(holds, otherwise, code="ValidationException"):
    if not holds:
        raise Refused(code, otherwise)


def limit(request, most):
    size = request.get("MaxResults", most)
    require(1 <= size <= most, f"MaxResults is 1 to {most}")
    return size


def scattered(parameter):
    return hashlib.sha256(parameter["Name"].encode()).hexdigest()


def succeeded(answer):
    return answer[0] == 200


def content(answer):
    return json.loads(answer[2])


def tell(operation, parameter):
    detail = {
        "operation": operation,
        "name": parameter["Name"],
        "type": parameter["Type"],
        "description": parameter["Description"],
    }
    eventbridge._dispatch_event(
        {
            "EventId": responses.new_uuid(),
            "Source": "aws.ssm",
            "DetailType": "Parameter Store Change",
            "Detail": json.dumps(detail),
            "EventBusName": "default",
            "Time": responses.now_iso(),
            "Resources": [parameter["ARN"]],
            "Account": responses.get_account_id(),
            "Region": responses.get_region(),
        }
    )
