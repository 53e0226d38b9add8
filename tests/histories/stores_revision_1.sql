-- A run log as the first released version left it: `user_version` 1, three runs. Made from a real file with '.dump'; never edited.
BEGIN TRANSACTION;
CREATE TABLE events (
    run INTEGER NOT NULL REFERENCES runs (id),
    position INTEGER NOT NULL,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    path TEXT,
    body TEXT,
    PRIMARY KEY (run, position)
) STRICT, WITHOUT ROWID;
INSERT INTO "events" VALUES(1,1,1700000000.0,'run_created',NULL,'{"run_id":"r_0aa_succeeded","pipeline":"shop","version":"1.2.0","plan_digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","input":{"city":"Oslo é"},"seed":7,"options":{}}');
INSERT INTO "events" VALUES(1,2,1700000000.1,'stage_started','load','{"attempt":1}');
INSERT INTO "events" VALUES(1,3,1700000000.2,'stage_succeeded','load','{"attempt":1,"packed":{"$blob":{"digest":"sha256:358f3e1cab105d42e604e7ab375ead4aa39b3351c7e7b5465bb4e1f0bab40c9d","size_bytes":70011,"media_type":"application/json","form":"value_json"}},"duration_s":0.1}');
INSERT INTO "events" VALUES(1,4,1700000000.3,'stage_started','each[0]/sum','{"attempt":1}');
INSERT INTO "events" VALUES(1,5,1700000000.4,'stage_succeeded','each[0]/sum','{"attempt":1,"value":{"n":3,"nan":null},"decision":{"count":1},"duration_s":0.01,"usage":{"tokens":5}}');
INSERT INTO "events" VALUES(1,6,1700000001.0,'run_succeeded',NULL,'{"value":{"n":3}}');
INSERT INTO "events" VALUES(2,1,1700000100.1,'stage_started','load','{"attempt":1}');
INSERT INTO "events" VALUES(2,2,1700000100.2,'stage_failed','load','{"attempt":1,"failure":{"code":"boom","message":"it broke","stage":"load","attempts":1,"details":{"n":1}},"draw":0.25,"duration_s":0.0}');
INSERT INTO "events" VALUES(2,3,1700000101.0,'run_failed',NULL,'{"failure":{"code":"boom","message":"it broke","stage":"load","attempts":1,"details":{"n":1}}}');
INSERT INTO "events" VALUES(3,1,1700000200.1,'stage_started','load','{"attempt":1}');
CREATE TABLE requests (
    run INTEGER NOT NULL REFERENCES runs (id),
    number INTEGER NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;
INSERT INTO "requests" VALUES(2,1,'cancel','{"message":"stop"}');
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL UNIQUE,
    pipeline TEXT NOT NULL,
    version TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at REAL NOT NULL,
    ended_at REAL,
    file TEXT,
    failure TEXT,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    pid_started TEXT NOT NULL
) STRICT;
INSERT INTO "runs" VALUES(1,'r_0aa_succeeded','shop','1.2.0','succeeded',1700000000.0,1700000001.0,'shop.pipeline.json',NULL,'a-host-of-the-past',4711,'12345');
INSERT INTO "runs" VALUES(2,'r_0bb_failed','shop','1.2.0','failed',1700000100.0,1700000101.0,'shop.pipeline.json','{"code":"boom","message":"it broke","stage":"load","attempts":1,"details":{"n":1}}','a-host-of-the-past',4711,'12345');
INSERT INTO "runs" VALUES(3,'r_0cc_killed','shop','1.2.0','running',1700000200.0,NULL,'shop.pipeline.json',NULL,'a-host-of-the-past',4711,'12345');
CREATE INDEX runs_created ON runs (created_at DESC);
PRAGMA user_version=1;
COMMIT;
