#!/usr/bin/env python3
"""A gRPC client that shares no code with Bulkhead: Debian's python3-grpcio and messages generated from the proto files.

usage: api_client.py SCENARIO TARGET [ARGUMENT...]   (TARGET: unix:/path or address:port)
Exits 0 when what it saw was right; prints a line at each point the test waits for.
"""
import sys
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from bulkhead.v1 import bulkhead_pb2
import health_pb2
import reflection_pb2

SUPERVISOR = "bulkhead.v1.Supervisor"
TIMEOUT = 20


def say(text):
    print(text, flush=True)


def unary(channel, path, request, response_class, **options):
    call = channel.unary_unary(path, request_serializer=lambda m: m.SerializeToString(),
                               response_deserializer=response_class.FromString)
    return call(request, timeout=options.pop("timeout", TIMEOUT), **options)


def stream(channel, path, request, response_class):
    call = channel.unary_stream(path, request_serializer=lambda m: m.SerializeToString(),
                                response_deserializer=response_class.FromString)
    return call(request, timeout=TIMEOUT)


def failure_of(function):
    try:
        function()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call succeeded")


def reflected(channel, request):
    call = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                                 request_serializer=lambda m: m.SerializeToString(),
                                 response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)
    return next(call(iter([request]), timeout=TIMEOUT))


def scenario_reflection(channel):
    """Knows nothing but the standard reflection service, and calls every method it finds."""
    names = reflected(channel, reflection_pb2.ServerReflectionRequest(list_services="*"))
    services = {service.name for service in names.list_services_response.service}
    expected = {SUPERVISOR, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert expected <= services, services
    found = reflected(channel, reflection_pb2.ServerReflectionRequest(file_containing_symbol=SUPERVISOR))
    pool = descriptor_pool.DescriptorPool()
    for serialized in found.file_descriptor_response.file_descriptor_proto:
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(serialized))
    factory = message_factory.MessageFactory(pool)
    service = pool.FindServiceByName(SUPERVISOR)
    for method in service.methods:
        request = factory.GetPrototype(method.input_type)()
        response = factory.GetPrototype(method.output_type)
        kind = unary if method.name in UNARY_METHODS else stream
        path = f"/{SUPERVISOR}/{method.name}"
        error = failure_of(lambda: list(kind(channel, path, request, response)))
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, (method.name, error)
        assert error.details() == "asked for " + method.name, error.details()
        say(method.name)


# DescriptorPool's Python classes of this version do not tell whether a method streams.
UNARY_METHODS = {method.name for method in
                 descriptor_pb2.FileDescriptorProto.FromString(bulkhead_pb2.DESCRIPTOR.serialized_pb).service[0].method
                 if not method.server_streaming}


def check(channel, service):
    return unary(channel, "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service=service),
                 health_pb2.HealthCheckResponse).status


def scenario_health(channel):
    response = health_pb2.HealthCheckResponse
    deadline = time.monotonic() + TIMEOUT
    while check(channel, "") != response.SERVING:
        assert time.monotonic() < deadline
    assert check(channel, "xenstore") == response.SERVING
    assert check(channel, "netback") == response.NOT_SERVING
    assert failure_of(lambda: check(channel, "nobody")).code() == grpc.StatusCode.NOT_FOUND
    watch = stream(channel, "/grpc.health.v1.Health/Watch", health_pb2.HealthCheckRequest(service="nobody"), response)
    assert next(watch).status == response.SERVICE_UNKNOWN


def scenario_health_watch(channel, service, changes):
    request = health_pb2.HealthCheckRequest(service="" if service == "overall" else service)
    watch = stream(channel, "/grpc.health.v1.Health/Watch", request, health_pb2.HealthCheckResponse)
    for _ in range(int(changes)):
        say(health_pb2.HealthCheckResponse.ServingStatus.Name(next(watch).status))


def scenario_reconnect(channel):
    watch = stream(channel, f"/{SUPERVISOR}/WatchComponents", bulkhead_pb2.WatchComponentsRequest(),
                   bulkhead_pb2.ComponentChange)
    say("watching " + next(watch).component.name)
    error = failure_of(lambda: next(watch))
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    say("interrupted")
    version = unary(channel, f"/{SUPERVISOR}/GetVersion", bulkhead_pb2.GetVersionRequest(),
                    bulkhead_pb2.GetVersionResponse, wait_for_ready=True)
    watch = stream(channel, f"/{SUPERVISOR}/WatchComponents", bulkhead_pb2.WatchComponentsRequest(),
                   bulkhead_pb2.ComponentChange)
    say("again " + next(watch).component.name + " " + version.version)


def scenario_version(channel):
    say(unary(channel, f"/{SUPERVISOR}/GetVersion", bulkhead_pb2.GetVersionRequest(),
              bulkhead_pb2.GetVersionResponse).version)


def scenario_refused(channel):
    error = failure_of(lambda: unary(channel, f"/{SUPERVISOR}/GetVersion", bulkhead_pb2.GetVersionRequest(),
                                     bulkhead_pb2.GetVersionResponse, timeout=10))
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error


def contents(path):
    with open(path, "rb") as file:
        return file.read()


def main():
    scenario, target, *arguments = sys.argv[1:]
    if target.startswith("unix:"):
        channel = grpc.insecure_channel(target)
    else:
        authority, *pair = arguments
        arguments = []
        key, certificate = (contents(path) for path in pair) if pair else (None, None)
        credentials = grpc.ssl_channel_credentials(contents(authority), key, certificate)
        channel = grpc.secure_channel(target, credentials)
    globals()["scenario_" + scenario](channel, *arguments)


main()
