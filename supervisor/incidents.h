// Incidents: what failed, how it was noticed and what became of it, in an SQLite database that survives
// restarts and is bounded by age and number. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "bulkhead/v1/bulkhead.pb.h"
#include "runtime/result.h"

namespace bulkhead::supervisor {

class IncidentStore {
 public:
  struct Limits {
    std::int64_t max_age_us;
    std::uint64_t max_count;
  };

  // Opens or creates `path`. Never fails: a damaged file is renamed to PATH.damaged-TIME and a new one begun;
  // where none can be written, incidents are kept in memory. trouble() tells.
  IncidentStore(const std::string& path, Limits limits, std::int64_t now_unix_us);
  ~IncidentStore();
  IncidentStore(IncidentStore&&) noexcept;
  IncidentStore& operator=(IncidentStore&&) noexcept;

  // What went wrong with the database since the last call, one line each: to be logged and shown. Empty:
  // nothing.
  std::vector<std::string> take_trouble();
  bool persistent() const { return persistent_; }

  // Stores a new incident and returns its id (`incident.id` is ignored), pruning what exceeds the limits.
  // Text is cut at 4 KiB a field, 64 steps. A database that fails here is replaced as in the constructor; the
  // incident is not lost.
  std::int64_t insert(const v1::Incident& incident);
  // Overwrites the incident with `incident.id`. kNotFound when it has been pruned.
  Status update(const v1::Incident& incident);

  // Of the open ones, those not in `known` are nobody's: their supervisor died before it could end them.
  // Their outcome becomes "unknown".
  void close_orphans(const std::set<std::int64_t>& known);

  struct Query {
    std::string component;       // empty: all
    std::int64_t before_id = 0;  // 0: from the newest
    std::uint32_t limit = 0;     // 0: 50; at most 500
  };
  // Newest first; next_before_id is 0 when there are no more.
  v1::ListIncidentsResponse list(const Query& query);
  // Stored ones of a component; empty: all. Cheap.
  std::uint64_t count(std::string_view component) const;

 private:
  class Database;  // incident_database.h

  void open(std::int64_t now_unix_us);
  Status open_file();
  void open_memory();
  // After `error`: a damaged file is renamed aside and a new one begun, anything else continues in memory
  // with the newest incidents.
  void replace(const Error& error, std::int64_t now_unix_us);
  void set_aside(const std::string& why, std::int64_t now_unix_us);

  std::string path_;
  Limits limits_;
  bool persistent_ = false;
  std::vector<std::string> trouble_;
  std::unique_ptr<Database> db_;
};

}  // namespace bulkhead::supervisor
