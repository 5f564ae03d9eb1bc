# bulkheadd with its edge and real processes, alone and under a stand-in for systemd's descriptor store.
bulkhead_library(bulkhead_core_host SOURCES core_host.cpp DEPS bulkhead_api_programs bulkhead_grpc GTest::gtest)

bulkhead_test(core_test SOURCES core_test.cpp DEPS bulkhead_core_host LABEL integration TIMEOUT 120)
add_dependencies(core_test bulkheadd bulkhead-api bulkhead-xenstored echo_component)

bulkhead_test(core_adoption_test SOURCES core_adoption_test.cpp DEPS bulkhead_core_host LABEL integration TIMEOUT 120)
add_dependencies(core_adoption_test bulkheadd bulkhead-api echo_component fd_store_host)

bulkhead_test(core_import_test SOURCES core_import_test.cpp DEPS bulkhead_core_host LABEL integration TIMEOUT 120)
add_dependencies(core_import_test bulkheadd bulkhead-api echo_component fd_store_host)

bulkhead_test(core_upgrade_test SOURCES core_rejuvenation_test.cpp core_upgrade_test.cpp DEPS bulkhead_core_host LABEL integration TIMEOUT 180)
add_dependencies(core_upgrade_test bulkheadd bulkhead-api echo_component fd_store_host)

# The xenstore service in another version.
bulkhead_program(bulkhead-xenstored-next SOURCES ${PROJECT_SOURCE_DIR}/components/xenstore/main.cpp
  DEPS bulkhead_xenstore_service)
target_compile_definitions(bulkhead-xenstored-next PRIVATE BULKHEAD_VERSION="next")

bulkhead_test(xenstore_product_test SOURCES xenstore_product_test.cpp DEPS bulkhead_core_host LABEL integration TIMEOUT 120)
add_dependencies(xenstore_product_test bulkheadd bulkhead-api bulkhead-xenstored bulkhead-xenstored-next fd_store_host xs-load)

bulkhead_test(xenstore_reconcile_test SOURCES xenstore_reconcile_test.cpp
  DEPS bulkhead_core_host bulkhead_xs_client LABEL integration TIMEOUT 120)
add_dependencies(xenstore_reconcile_test bulkheadd bulkhead-api bulkhead-xenstored fd_store_host)

# Against Debian's xenstored, without a core.
bulkhead_test(xenstore_live_update_test SOURCES xenstore_live_update_test.cpp
  DEPS bulkhead_stock_daemon bulkhead_xenstore_engine LABEL integration TIMEOUT 120)
target_compile_definitions(xenstore_live_update_test PRIVATE
  BULKHEAD_PEERS_DIR="${BULKHEAD_PEERS_DIR}" BULKHEAD_LIVE_UPDATE_HOST="$<TARGET_FILE:live_update_host>")
add_dependencies(xenstore_live_update_test live_update_host)

# Debian's xenstored hands over to the product.
bulkhead_test(xenstore_takeover_test SOURCES xenstore_takeover_test.cpp
  DEPS bulkhead_core_host bulkhead_stock_daemon LABEL integration TIMEOUT 180)
target_compile_definitions(xenstore_takeover_test PRIVATE BULKHEAD_PEERS_DIR="${BULKHEAD_PEERS_DIR}")
add_dependencies(xenstore_takeover_test bulkheadd bulkhead-api bulkhead-xenstored bulkhead-xenstore-takeover fd_store_host)
