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
            if not error.response["Error"]["Code"].startswith("AccessDenied"):
                raise
            return False
        return True

    return [name for name, call in calls.items() if passes(call)]


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
    client("cloudformation").create_stack(
        StackName="tagway",
        TemplateBody=template,
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    waiter = client("cloudformation").get_waiter("stack_create_complete")
    waiter.wait(StackName="tagway", WaiterConfig={"Delay": 0.1, "MaxAttempts": 600})
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
}
print(json.dumps(answer))
