# What is allowed, and to whom, in an account where `template` was deployed. Prints it as JSON: names of calls, by caller.
import json

import boto3
from botocore.exceptions import ClientError

ACCOUNT, TABLE, ROOT = "123456789012", "tagway", "/tagway"


def role(name):
    return f"arn:aws:iam::{ACCOUNT}:role/{name}"


def client(service, session=None):
    if session is None:
        return boto3.client(service)
    return boto3.client(
        service,
        aws_access_key_id=session["AccessKeyId"],
        aws_secret_access_key=session["SecretAccessKey"],
        aws_session_token=session["SessionToken"],
    )


def assume(name, by=None, **tags):
    tags = [{"Key": key, "Value": value} for key, value in tags.items()]
    return client("sts", by).assume_role(RoleArn=role(name), RoleSessionName="test", Tags=tags)["Credentials"]


def allowed(calls):
    def passes(call):
        try:
            call()
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "ReceiptHandleIsInvalid":
                return True
            if not code.startswith("AccessDenied"):
                raise
            return False
        return True

    return [name for name, call in calls.items() if passes(call)]


def stack(name, body, parameters):
    client("cloudformation").create_stack(
        StackName=name,
        TemplateBody=body,
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    waiter = client("cloudformation").get_waiter("stack_create_complete")
    waiter.wait(StackName=name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 600})


def deploy():
    for name, actions in [("gateway", []), ("neighbour", ["*"])]:
        trust = {"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=document)
        if actions:
            may = {"Effect": "Allow", "Action": actions, "Resource": "*"}
            document = json.dumps({"Version": "2012-10-17", "Statement": [may]})
            client("iam").put_role_policy(RoleName=name, PolicyName="all", PolicyDocument=document)
    key = client("kms").create_key()["KeyMetadata"]["Arn"]
    parameters = {
        "GatewayRoleName": "gateway",
        "EventBusName": "changes",
        "CreateEventBus": "true",
        "KmsKeyArn": key,
    }
    stack("tagway", template, parameters)
    stack("tagway-events", events, {"GatewayRoleName": "gateway", "EventBusName": "changes"})
    for whose in ["acme", "globex", "_shared"]:
        client("ssm").put_parameter(Name=f"{ROOT}/{whose}/ns/tag/text", Value="v", Type="String")
        client("ssm").put_parameter(Name=f"{ROOT}/{whose}/ns/tag/secret", Value="v", Type="SecureString", KeyId=key)
    return key


def calls_of(session, kms_key):
    return items_and_events(session) | parameters(session, kms_key)


def items_and_events(session):
    dynamodb, events = client("dynamodb", session), client("events", session)

    def key(pk):
        return {"pk": {"S": pk}, "sk": {"S": "key"}}

    def query(pk):
        return dynamodb.query(
            TableName=TABLE, KeyConditionExpression="pk = :pk", ExpressionAttributeValues={":pk": {"S": pk}}
        )

    def update(pk):
        return dynamodb.update_item(TableName=TABLE, Key=key(pk), UpdateExpression="REMOVE nothing")

    def batch(*pks):
        return dynamodb.batch_get_item(RequestItems={TABLE: {"Keys": [key(pk) for pk in pks]}})

    def transact(*pks):
        return dynamodb.transact_write_items(TransactItems=[{"Put": {"TableName": TABLE, "Item": key(pk)}} for pk in pks])

    def put_events(bus):
        entry = {"Source": "test", "DetailType": "test", "Detail": "{}", "EventBusName": bus}
        return events.put_events(Entries=[entry])

    own, other, shared = "TENANT#acme", "TENANT#globex", "SHARED"
    by_item = {
        "get": lambda pk: dynamodb.get_item(TableName=TABLE, Key=key(pk)),
        "query": query,
        "put": lambda pk: dynamodb.put_item(TableName=TABLE, Item=key(pk)),
        "update": update,
        "delete": lambda pk: dynamodb.delete_item(TableName=TABLE, Key=key(pk)),
        "batch": batch,
        "transact": transact,
    }
    calls = {
        f"{name} {pk}": lambda call=call, pk=pk: call(pk) for pk in [own, other, shared] for name, call in by_item.items()
    }
    return calls | {
        "batch of own and shared": lambda: batch(own, shared),
        "batch of own and other": lambda: batch(own, other),
        "transact own and other": lambda: transact(own, other),
        "scan": lambda: dynamodb.scan(TableName=TABLE),
        "delete table": lambda: dynamodb.delete_table(TableName=TABLE),
        "put events": lambda: put_events("changes"),
        "put events elsewhere": lambda: put_events("default"),
    }


def parameters(session, kms_key):
    ssm = client("ssm", session)

    def name(whose, last="text"):
        return f"{ROOT}/{whose}/ns/tag/{last}"

    def get(*names):
        return ssm.get_parameters(Names=names, WithDecryption=True)

    def by_path(path, secrets=True):
        return ssm.get_parameters_by_path(Path=path, Recursive=True, WithDecryption=secrets)

    def put(name, value="w", **more):
        return ssm.put_parameter(Name=name, Value=value, Overwrite=True, Tier="Intelligent-Tiering", **more)

    def encrypt(whose):
        context = {"PARAMETER_ARN": f"arn:aws:ssm:us-east-1:{ACCOUNT}:parameter{name(whose)}"}
        return client("kms", session).encrypt(KeyId=kms_key, Plaintext=b"v", EncryptionContext=context)

    own, other, shared = "acme", "globex", "_shared"
    by_parameter = {
        "get": lambda whose: get(name(whose)),
        "get version": lambda whose: get(name(whose) + ":1"),
        "get secret": lambda whose: get(name(whose, "secret")),
        "get path": lambda whose: by_path(f"{ROOT}/{whose}/ns"),
        "get all": lambda whose: by_path(f"{ROOT}/{whose}"),
        "history": lambda whose: ssm.get_parameter_history(Name=name(whose, "secret"), WithDecryption=True),
        "put": lambda whose: put(name(whose)),
        "put secret": lambda whose: put(name(whose, "secret"), KeyId=kms_key),
        "put large secret": lambda whose: put(name(whose, "secret"), "w" * 5000, KeyId=kms_key),
        "delete": lambda whose: ssm.delete_parameter(Name=name(whose)),
        "encrypt": encrypt,
    }
    calls = {
        f"{call} {whose}": lambda run=run, whose=whose: run(whose)
        for whose in [own, other, shared]
        for call, run in by_parameter.items()
    }
    return calls | {
        "get own and shared": lambda: get(name(own), name(shared, "secret")),
        "get own and other": lambda: get(name(own), name(other)),
        "get one whose name is longer": lambda: get(name(own + ".eu")),
        # Others' secrets would be refused anyway, by the key.
        "get root": lambda: by_path(ROOT, secrets=False),
        "get everything": lambda: by_path("/", secrets=False),
        "put beside all": lambda: put(f"{ROOT}/text", Type="String"),
        "describe": lambda: ssm.describe_parameters(),
    }


def queues_and_rules(session):
    sqs, events = client("sqs", session), client("events", session)
    client("sqs").create_queue(QueueName="another")

    def url(queue):
        return client("sqs").get_queue_url(QueueName=queue)["QueueUrl"]

    def put_rule(name, bus):
        return events.put_rule(Name=name, EventBusName=bus, EventPattern='{"source": ["tagway"]}')

    def put_target(queue):
        target = {"Id": "queue", "Arn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{queue}"}
        return events.put_targets(Rule=own, Targets=[target])

    def of(queue):
        return {
            f"attributes of {queue}": lambda: sqs.get_queue_attributes(QueueUrl=url(queue), AttributeNames=["All"]),
            f"set attributes of {queue}": lambda: sqs.set_queue_attributes(QueueUrl=url(queue), Attributes={"DelaySeconds": "0"}),
            f"tag {queue}": lambda: sqs.tag_queue(QueueUrl=url(queue), Tags={"a": "b"}),
            f"tags of {queue}": lambda: sqs.list_queue_tags(QueueUrl=url(queue)),
            f"receive from {queue}": lambda: sqs.receive_message(QueueUrl=url(queue)),
            f"delete from {queue}": lambda: sqs.delete_message(QueueUrl=url(queue), ReceiptHandle="x"),
            f"send to {queue}": lambda: sqs.send_message(QueueUrl=url(queue), MessageBody="x"),
        }

    own = "tagway-events-1"
    calls = {"create queue": lambda: sqs.create_queue(QueueName=own, tags={"a": "b"})}
    calls |= {name.replace(own, "queue"): call for name, call in of(own).items()}
    calls |= of("another") | {"create another": lambda: sqs.create_queue(QueueName="yet-another")}
    return calls | {
        "put rule": lambda: put_rule(own, "default"),
        "put rule on bus": lambda: put_rule(own, "changes"),
        "put another rule": lambda: put_rule("another", "default"),
        "put target": lambda: put_target(own),
        "put another target": lambda: put_target("another"),
        "remove target": lambda: events.remove_targets(Rule=own, Ids=["queue"]),
        "delete rule": lambda: events.delete_rule(Name=own),
        "delete queue": lambda: sqs.delete_queue(QueueUrl=url(own)),
        "delete another": lambda: sqs.delete_queue(QueueUrl=url("another")),
        "list queues": lambda: sqs.list_queues(QueueNamePrefix="tagway-events-"),
        "list rules": lambda: events.list_rules(NamePrefix="tagway-events-"),
    }


kms_key = deploy()
gateway, neighbour = assume("gateway"), assume("neighbour")
tenant = assume("tagway-tenant", gateway, TenantId="acme")
answer = {
    "role": allowed(
        {
            "for a tenant": lambda: assume("tagway-tenant", gateway, TenantId="acme"),
            "for nobody": lambda: assume("tagway-tenant", gateway),
            "with another tag": lambda: assume("tagway-tenant", gateway, Tenant="acme"),
            "with one more tag": lambda: assume("tagway-tenant", gateway, TenantId="acme", Team="a"),
            "by another role": lambda: assume("tagway-tenant", neighbour, TenantId="acme"),
        }
    ),
    "tenant": allowed(calls_of(tenant, kms_key)),
    "gateway": allowed(calls_of(gateway, kms_key)),
    "queues": allowed(queues_and_rules(gateway)),
}
print(json.dumps(answer))
