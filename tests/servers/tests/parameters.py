# What Parameter Store says to what AWS refuses, or answers in its own way. Prints it as JSON: answers, by request.
import json

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

# The server and not the client is to judge.
ssm = boto3.client("ssm", config=Config(parameter_validation=False))
events, sqs = boto3.client("events"), boto3.client("sqs")


def outcome(call):
    try:
        return call()
    except ClientError as error:
        return error.response["Error"]["Code"]


def put(name, value="v", kind="String", **more):
    request = {"Name": name, "Value": value, "Type": kind, **more}
    given = {key: value for key, value in request.items() if value is not None}
    return outcome(lambda: ssm.put_parameter(Tier="Intelligent-Tiering", **given)["Tier"])


def over(name, value="w", kind=None, **more):
    return put(name, value, kind, Overwrite=True, **more)


def names(answer):
    return [parameter["Name"] for parameter in answer["Parameters"]]


def get(*asked):
    return outcome(lambda: sorted(names(ssm.get_parameters(Names=list(asked)))))


def pages(**more):
    return [names(page) for page in ssm.get_paginator("get_parameters_by_path").paginate(Path="/many", **more)]


def history(name, **more):
    return outcome(lambda: len(ssm.get_parameter_history(Name=name, **more)["Parameters"]))


def versions(name):
    found = list(ssm.get_paginator("get_parameter_history").paginate(Name=name).search("Parameters[].Version"))
    return [found[0], found[-1], len(found)]


def unlabel(name, version, *labels):
    answer = outcome(lambda: ssm.unlabel_parameter_version(Name=name, ParameterVersion=version, Labels=list(labels)))
    return answer if isinstance(answer, str) else [answer["RemovedLabels"], answer["InvalidLabels"]]


def tell_a_queue():
    queue = sqs.create_queue(QueueName="changes")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="changes", EventPattern=json.dumps({"source": ["aws.ssm"]}))
    events.put_targets(Rule="changes", Targets=[{"Id": "queue", "Arn": arn}])
    return queue


def told(queue):
    """In whatever order."""
    found = []
    while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
        found += [json.loads(message["Body"]) for message in messages]
        for message in messages:
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return sorted([event["detail-type"], *event["detail"].values(), *event["resources"]] for event in found)


queue = tell_a_queue()
put("/told", Description="of a change")
over("/told")
# What is refused is not told.
put("/told")
over("/told", kind="SecureString")
ssm.label_parameter_version(Name="/told", ParameterVersion=1, Labels=["first"])
ssm.delete_parameter(Name="/told")
outcome(lambda: ssm.delete_parameter(Name="/told"))
answers = {"told": told(queue)}

answers["names"] = {
    "fifteen levels": put("/l" * 15),
    "sixteen levels": put("/l" * 16),
    "a space": put("/a b"),
    "nothing between slashes": put("/a//b"),
    "a path without its first slash": put("a/b"),
    "reserved": put("/ssm/a"),
    "as long as can be": put("/" + "n" * (1010 - len("arn:aws:ssm:us-east-1:123456789012:parameter"))),
    "longer": put("/" + "n" * (1011 - len("arn:aws:ssm:us-east-1:123456789012:parameter"))),
}
answers["values"] = {
    "empty": put("/empty", ""),
    "a reference": put("/reference", "a {{ssm:\nother}} b"),
    "an empty reference": put("/reference", "{{}}"),
    "braces": put("/braces", "{{ }"),
    "for a standard parameter": put("/grows", "é" * 2048),
    "for an advanced one": over("/grows", "v" * 8192),
    "for none": over("/grows", "v" * 8193),
    "small again": over("/grows"),
    "down to standard": outcome(lambda: ssm.put_parameter(Name="/grows", Value="v", Tier="Standard", Overwrite=True)),
    "for no standard one": outcome(lambda: ssm.put_parameter(Name="/s", Type="String", Value="é" * 2049, Tier="Standard")),
}
answers["types"] = {
    "a secret": put("/secret", kind="SecureString", KeyId="alias/aws/ssm"),
    "a new one": over("/secret", KeyId="alias/aws/ssm"),
    "no secret any more": over("/secret", kind="String"),
    "a text": put("/text"),
    "a secret from now on": over("/text", kind="SecureString"),
    "a key for a text": put("/key", KeyId="alias/aws/ssm"),
    "a key for what was a text": over("/text", KeyId="alias/aws/ssm"),
    "none": put("/none", kind=None),
}
many = [f"/many/{number:02}" for number in range(25)]
for name in many:
    put(name)
found = pages()
answers["read"] = {
    "ten": get(*many[:10]) == many[:10],
    "eleven": get(*many[:11]),
    "none": get(),
    "one twice": get("/text", "/text"),
    "two versions of one": get("/text:1", "/text:2"),
    "one version": get("/text:1"),
    "pages": [len(page) for page in found],
    "by name": sum(found, []) == many,
    "all": sorted(sum(found, [])) == many,
    "the same again": pages() == found,
    "in other pages": sum(pages(PaginationConfig={"PageSize": 3}), []) == sum(found, []),
    "pages of eleven": outcome(lambda: pages(PaginationConfig={"PageSize": 11})),
    "history of 50": history("/text", MaxResults=50),
    "history of 51": history("/text", MaxResults=51),
    "history of 0": history("/text", MaxResults=0),
}
put("/versions")
for _ in range(100):
    over("/versions")
ssm.label_parameter_version(Name="/versions", ParameterVersion=2, Labels=["oldest"])
answers["versions"] = {
    "a hundred": versions("/versions"),
    "one more while the oldest has a label": over("/versions"),
    "the label": unlabel("/versions", 2, "oldest", "other"),
    "one more": over("/versions"),
    "a hundred others": versions("/versions"),
    "a label of what is gone": unlabel("/versions", 2, "oldest"),
}
print(json.dumps(answers))
