/* The guest's program: commits numbered rows to an SQLite database in WAL mode with synchronous=FULL and prints one line
 * for each commit that has returned. First it checks what is there: rows 1..n without a gap, and the database's own check.
 *
 * usage: writer DATABASE check|write
 */
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>

static int number(sqlite3 *db, const char *sql, long long *value)
{
    sqlite3_stmt *s;
    int rc = sqlite3_prepare_v2(db, sql, -1, &s, NULL);
    if (rc == SQLITE_OK) {
        rc = sqlite3_step(s) == SQLITE_ROW ? SQLITE_OK : SQLITE_ERROR;
        if (rc == SQLITE_OK)
            *value = sqlite3_column_int64(s, 0);
    }
    sqlite3_finalize(s);
    return rc;
}

static int integrity(sqlite3 *db, char *text, size_t size)
{
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW) {
        snprintf(text, size, "%s", sqlite3_errmsg(db));
        sqlite3_finalize(s);
        return 1;
    }
    snprintf(text, size, "%s", (const char *)sqlite3_column_text(s, 0));
    sqlite3_finalize(s);
    return strcmp(text, "ok") != 0;
}

int main(int argc, char **argv)
{
    sqlite3 *db;
    char text[256], *error = NULL;
    long long newest = 0, rows = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc != 3 || sqlite3_open(argv[1], &db) != SQLITE_OK) {
        printf("WRITER can't open the database\n");
        return 2;
    }
    if (sqlite3_exec(db,
                     "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                     "CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, filler BLOB)",
                     NULL, NULL, &error) != SQLITE_OK) {
        printf("WRITER %s\n", error);
        return 2;
    }
    int bad = integrity(db, text, sizeof text);
    bad |= number(db, "SELECT coalesce(max(n),0) FROM t", &newest) != SQLITE_OK;
    bad |= number(db, "SELECT count(*) FROM t", &rows) != SQLITE_OK;
    printf("FOUND newest=%lld rows=%lld integrity=%s\n", newest, rows, bad ? text : "ok");
    if (bad || newest != rows || !strcmp(argv[2], "check"))
        return bad || newest != rows;
    sqlite3_stmt *insert;
    if (sqlite3_prepare_v2(db, "INSERT INTO t VALUES(?, randomblob(1000))", -1, &insert, NULL) != SQLITE_OK)
        return 2;
    for (long long n = newest + 1;; n++) {
        sqlite3_bind_int64(insert, 1, n);
        if (sqlite3_step(insert) != SQLITE_DONE || sqlite3_reset(insert) != SQLITE_OK) {
            printf("WRITER commit %lld: %s\n", n, sqlite3_errmsg(db));
            return 2;
        }
        printf("COMMIT %lld\n", n);
    }
}
