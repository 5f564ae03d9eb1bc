# The edge and the CLI as programs, with a stand-in core; clients in C++ and, with Debian's python3-grpcio, in Python.
find_package(Protobuf REQUIRED)
find_program(SYSTEM_PYTHON3 python3 PATHS /usr/bin NO_DEFAULT_PATH REQUIRED)

set(python_messages ${CMAKE_CURRENT_BINARY_DIR}/python)
set(api_protos ${CMAKE_CURRENT_SOURCE_DIR}/api_protos)
add_custom_command(
  OUTPUT ${python_messages}/bulkhead/v1/bulkhead_pb2.py ${python_messages}/health_pb2.py ${python_messages}/reflection_pb2.py
  COMMAND ${CMAKE_COMMAND} -E make_directory ${python_messages}
  COMMAND protobuf::protoc --python_out=${python_messages} -I ${PROJECT_SOURCE_DIR}/proto
          ${PROJECT_SOURCE_DIR}/proto/bulkhead/v1/bulkhead.proto
  COMMAND protobuf::protoc --python_out=${python_messages} -I ${api_protos}
          ${api_protos}/health.proto ${api_protos}/reflection.proto
  DEPENDS ${PROJECT_SOURCE_DIR}/proto/bulkhead/v1/bulkhead.proto ${api_protos}/health.proto ${api_protos}/reflection.proto
  VERBATIM)
add_custom_target(api_python_messages DEPENDS ${python_messages}/bulkhead/v1/bulkhead_pb2.py)

bulkhead_library(bulkhead_api_programs SOURCES api_programs.cpp DEPS bulkhead_fake_core)
target_compile_definitions(bulkhead_api_programs PUBLIC
  BULKHEAD_BIN="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}" BULKHEAD_SOURCE="${PROJECT_SOURCE_DIR}"
  BULKHEAD_PYTHON="${SYSTEM_PYTHON3}" BULKHEAD_PYTHON_MESSAGES="${python_messages}")

bulkhead_test(api_edge_test SOURCES api_edge_test.cpp DEPS bulkhead_api_programs LABEL integration)
add_dependencies(api_edge_test bulkhead-api bulkhead api_python_messages)

bulkhead_test(cli_programs_test SOURCES cli_test.cpp DEPS bulkhead_api_programs LABEL integration)
add_dependencies(cli_programs_test bulkhead-api bulkhead)

find_package(CLI11 REQUIRED)
bulkhead_test(cli_manual_test SOURCES cli_manual_test.cpp DEPS bulkhead_cli bulkhead_supervisor_parts)
target_compile_definitions(cli_manual_test PRIVATE BULKHEAD_SOURCE="${PROJECT_SOURCE_DIR}")
