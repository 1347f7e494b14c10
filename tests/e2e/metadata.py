"""What a run left in ML Metadata, which is what the Kubeflow UI draws from.

The few messages that are needed are described here by their numbers in ml_metadata/proto/metadata_store.proto: the
package with the generated classes can't be installed beside a current protobuf.
"""

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

SERVICE = "/ml_metadata.MetadataStoreService"
INT, TEXT, LIST = "TYPE_INT64", "TYPE_STRING", "LABEL_REPEATED"


@dataclass(frozen=True, kw_only=True)
class Output:
    """An artifact of a task."""

    task: str
    name: str
    kind: str  # system.Metrics, system.HTML ...
    uri: str
    metadata: dict[str, Any]


def outputs(channel: grpc.Channel, run_id: str) -> list[Output]:
    """Return what the tasks of a run put out."""
    about = {"type_name": "system.PipelineRun", "context_name": run_id}
    context = _ask(channel, "GetContextByTypeAndName", "ContextByName", about, "ContextAnswer")["context"]["id"]
    found = _ask(channel, "GetExecutionsByContext", "OfContext", {"context_id": context}, "ExecutionsAnswer")
    executions = {one["id"]: one for one in found["executions"]}
    found = _ask(channel, "GetEventsByExecutionIDs", "OfExecutions", {"ids": list(executions)}, "EventsAnswer")
    events = {event["artifact_id"]: event for event in found["events"] if event["type"] == OUTPUT}
    found = _ask(channel, "GetArtifactsByID", "OfIds", {"ids": list(events)}, "ArtifactsAnswer")
    return [_output(one, events[one["id"]], executions) for one in found["artifacts"]]


OUTPUT = 4  # Event.Type


def _output(artifact: Any, event: Any, executions: Any) -> Output:
    task = _plain(executions[event["execution_id"]]["custom_properties"])["task_name"]
    (step,) = (step["key"] for step in event["path"]["steps"] if "key" in step)
    metadata = _plain(artifact.get("custom_properties", {}))
    return Output(task=task, name=step, kind=artifact["type"], uri=artifact.get("uri", ""), metadata=metadata)


def _plain(properties: dict[str, Any]) -> dict[str, Any]:
    return {name: next(iter(value.values())) for name, value in properties.items() if value}


MESSAGES: dict[str, list[tuple[str, int, str, str]]] = {
    "Value": [
        ("int_value", 1, INT, ""),
        ("double_value", 2, "TYPE_DOUBLE", ""),
        ("string_value", 3, TEXT, ""),
        ("struct_value", 4, ".google.protobuf.Struct", ""),
        ("bool_value", 6, "TYPE_BOOL", ""),
    ],
    "Entry": [("key", 1, TEXT, ""), ("value", 2, ".m.Value", "")],
    "Context": [("id", 1, INT, "")],
    "Execution": [("id", 1, INT, ""), ("custom", 5, ".m.Entry", LIST)],
    "Artifact": [("id", 1, INT, ""), ("uri", 3, TEXT, ""), ("custom", 5, ".m.Entry", LIST), ("type", 8, TEXT, "")],
    "Step": [("index", 1, INT, ""), ("key", 2, TEXT, "")],
    "Path": [("steps", 1, ".m.Step", LIST)],
    "Event": [
        ("artifact_id", 1, INT, ""),
        ("execution_id", 2, INT, ""),
        ("path", 3, ".m.Path", ""),
        ("type", 4, "TYPE_INT32", ""),
    ],
    "ContextByName": [("type_name", 1, TEXT, ""), ("context_name", 2, TEXT, "")],
    "OfContext": [("context_id", 1, INT, "")],
    "OfExecutions": [("ids", 1, INT, LIST)],
    "OfIds": [("ids", 1, INT, LIST)],
    "ContextAnswer": [("context", 1, ".m.Context", "")],
    "ExecutionsAnswer": [("executions", 1, ".m.Execution", LIST)],
    "EventsAnswer": [("events", 1, ".m.Event", LIST)],
    "ArtifactsAnswer": [("artifacts", 1, ".m.Artifact", LIST)],
}


def _ask(channel: grpc.Channel, method: str, asked: str, body: dict[str, Any], answered: str) -> Any:
    question, answer = CLASSES[asked], CLASSES[answered]
    call = channel.unary_unary(f"{SERVICE}/{method}", lambda message: message.SerializeToString(), answer.FromString)
    found = json_format.MessageToDict(call(question(**body), timeout=30), preserving_proto_field_name=True)
    return _tidied(found)


def _tidied(node: Any) -> Any:
    """Make maps of entries and numbers of ids."""
    if isinstance(node, list):
        return [_tidied(one) for one in node]
    if not isinstance(node, dict):
        return node
    tidy = {key: int(value) if key == "id" or key.endswith("_id") else _tidied(value) for key, value in node.items()}
    if "custom" in tidy:
        tidy["custom_properties"] = {entry["key"]: entry.get("value", {}) for entry in tidy.pop("custom")}
    return tidy


def _classes() -> dict[str, Any]:
    from google.protobuf import struct_pb2

    file = descriptor_pb2.FileDescriptorProto(name="m.proto", package="m", syntax="proto2")
    file.dependency.append(struct_pb2.DESCRIPTOR.name)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, label in fields:
            field = message.field.add(name=field_name, number=number)
            field.label = descriptor_pb2.FieldDescriptorProto.Label.Value(label or "LABEL_OPTIONAL")
            if kind.startswith("."):
                field.type, field.type_name = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE, kind
            else:
                field.type = descriptor_pb2.FieldDescriptorProto.Type.Value(kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"m.{name}")) for name in MESSAGES}


CLASSES = _classes()
