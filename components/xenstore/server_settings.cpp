#include "components/xenstore/server_settings.h"

namespace bulkhead::xenstore {

Result<std::uint64_t> setting_between(const Instance& instance, const std::string& name,
                                      std::uint64_t fallback, std::uint64_t low, std::uint64_t high) {
  auto value = instance.number_setting(name, fallback);
  if (value && (*value < low || *value > high)) {
    return failure(ErrorKind::kInvalid, "setting " + name + " = " + std::to_string(*value) +
                                            " must be between " + std::to_string(low) + " and " +
                                            std::to_string(high));
  }
  return value;
}

Result<ServerSettings> ServerSettings::from(const Instance& instance) {
  ServerSettings settings;
  auto rate = setting_between(instance, "write_rate", 200, 0, 1'000'000);
  if (!rate) return forward(std::move(rate));
  auto burst = setting_between(instance, "write_burst", 10, 1, 1'000'000);
  if (!burst) return forward(std::move(burst));
  auto poison = setting_between(instance, "poison_limit", settings.poison_limit, 1, 1000);
  if (!poison) return forward(std::move(poison));
  auto unsent =
      setting_between(instance, "unsent_bytes", settings.unsent_limit, 1 << 20, std::uint64_t{1} << 40);
  if (!unsent) return forward(std::move(unsent));
  settings.write_limit = {static_cast<std::int64_t>(*rate), static_cast<std::int64_t>(*burst)};
  settings.poison_limit = static_cast<std::uint32_t>(*poison);
  settings.unsent_limit = *unsent;
  return settings;
}

}  // namespace bulkhead::xenstore
