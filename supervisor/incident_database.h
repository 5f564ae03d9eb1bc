// The SQLite side of incidents.h: one open database, its schema and statements. Errors of SQLite become
// Errors here; kInvalid means that the file is damaged, kFailed everything else.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bulkhead/v1/bulkhead.pb.h"
#include "runtime/result.h"
#include "supervisor/incidents.h"

struct sqlite3;
struct sqlite3_stmt;

namespace bulkhead::supervisor {

class IncidentStore::Database {
 public:
  // ":memory:" for none on disk. Brings the schema up to date.
  static Result<std::unique_ptr<Database>> open(const std::string& file);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // A new row; its id, unless the incident has one (copies into another database).
  Result<std::int64_t> insert(const v1::Incident& incident, const Limits& limits);
  // kNotFound: there is none with this id.
  Status update(const v1::Incident& incident);
  Result<v1::ListIncidentsResponse> list(const Query& query);
  Result<std::vector<v1::Incident>> open_ones();
  std::uint64_t count(std::string_view component) const;
  // Ids of later rows are larger than this.
  Status continue_after(std::int64_t id);
  std::int64_t last_id() const { return last_id_; }

 private:
  class Statement;

  explicit Database(sqlite3* db);
  Status prepare();
  Status migrate();
  Status load_counts();
  Status run(const char* sql);
  Status prune(const Limits& limits, std::int64_t now_unix_us);
  Status delete_counted(Statement& statement);
  Error error(std::string_view what) const;

  sqlite3* db_;
  std::unique_ptr<Statement> insert_, update_, list_, list_of_, delete_old_, delete_first_;
  std::map<std::string, std::uint64_t, std::less<>> counts_;
  std::uint64_t total_ = 0;
  std::int64_t last_id_ = 0;
};

}  // namespace bulkhead::supervisor
