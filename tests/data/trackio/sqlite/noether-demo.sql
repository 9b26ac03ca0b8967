BEGIN TRANSACTION;
CREATE TABLE alerts (
                        id INTEGER PRIMARY KEY AUTOINCREMENT,
                        run_id TEXT NOT NULL,
                        timestamp TEXT NOT NULL,
                        run_name TEXT NOT NULL,
                        title TEXT NOT NULL,
                        text TEXT,
                        level TEXT NOT NULL DEFAULT 'warn',
                        step INTEGER,
                        alert_id TEXT
                    );
INSERT INTO "alerts" VALUES(1,'d71d6f2cbdae47d381c2d728ef42740f','2026-11-20T20:13:33.171271+00:00','drivaer--lr=1e-3/default_2026-03-11_ab1cd','t','x','warn',101,'281bbed101f6433988e9f0339c066185');
CREATE TABLE artifact_aliases (
                        artifact_id INTEGER NOT NULL REFERENCES artifacts(id),
                        alias TEXT NOT NULL,
                        artifact_version_id INTEGER NOT NULL REFERENCES artifact_versions(id),
                        PRIMARY KEY (artifact_id, alias)
                    );
INSERT INTO "artifact_aliases" VALUES(1,'latest',1);
CREATE TABLE artifact_versions (
                        id INTEGER PRIMARY KEY AUTOINCREMENT,
                        artifact_id INTEGER NOT NULL REFERENCES artifacts(id),
                        version INTEGER NOT NULL,
                        manifest_digest TEXT NOT NULL,
                        manifest TEXT NOT NULL,
                        metadata TEXT,
                        size_bytes INTEGER NOT NULL,
                        producer_run_id TEXT,
                        producer_run_name TEXT,
                        created_at TEXT NOT NULL,
                        UNIQUE(artifact_id, version),
                        UNIQUE(artifact_id, manifest_digest)
                    );
INSERT INTO "artifact_versions" VALUES(1,1,0,'104ad669796f23bd0cc36b81ddc425220f51e28555a01c5a410a182bbc15ac5c','[{"path":"m.pt","digest":"6ff1386a6f0d444e2af43e9a9e1cdc1394709fc87b5c2a625e16041fec2b1131","size":100}]',NULL,100,'d71d6f2cbdae47d381c2d728ef42740f','drivaer--lr=1e-3/default_2026-03-11_ab1cd','2026-11-20T20:13:33.177765+00:00');
CREATE TABLE artifacts (
                        id INTEGER PRIMARY KEY AUTOINCREMENT,
                        name TEXT NOT NULL UNIQUE,
                        type TEXT NOT NULL,
                        description TEXT,
                        created_at TEXT NOT NULL
                    );
INSERT INTO "artifacts" VALUES(1,'model','model',NULL,'2026-11-20T20:13:33.177765+00:00');
CREATE TABLE configs (
                        id INTEGER PRIMARY KEY AUTOINCREMENT,
                        run_id TEXT NOT NULL,
                        run_name TEXT NOT NULL,
                        config TEXT NOT NULL,
                        created_at TEXT NOT NULL,
                        UNIQUE(run_id)
                    );
INSERT INTO "configs" VALUES(2,'d71d6f2cbdae47d381c2d728ef42740f','drivaer--lr=1e-3/default_2026-03-11_ab1cd',X'7B227365636F6E64223A312C225F557365726E616D65223A6E756C6C2C225F43726561746564223A22323032362D31312D32305432303A31333A33332E3139303036322B30303A3030222C225F47726F7570223A6E756C6C7D','2026-11-20T20:13:33.192551+00:00');
CREATE TABLE external_run_artifact_links (
                        id INTEGER PRIMARY KEY AUTOINCREMENT,
                        run_id TEXT,
                        run_name TEXT,
                        source_project TEXT NOT NULL,
                        source_version_id INTEGER NOT NULL,
                        source_artifact TEXT NOT NULL,
                        source_type TEXT NOT NULL,
                        source_version INTEGER NOT NULL,
                        source_size_bytes INTEGER NOT NULL,
                        direction TEXT NOT NULL CHECK(direction IN ('input', 'output')),
                        created_at TEXT NOT NULL
                    );
CREATE TABLE metrics (
                        id INTEGER PRIMARY KEY AUTOINCREMENT,
                        run_id TEXT NOT NULL,
                        timestamp TEXT NOT NULL,
                        run_name TEXT NOT NULL,
                        step INTEGER NOT NULL,
                        metrics TEXT NOT NULL
                    , log_id TEXT, space_id TEXT);
INSERT INTO "metrics" VALUES(1,'d71d6f2cbdae47d381c2d728ef42740f','2026-11-20T20:13:33.179567+00:00','drivaer--lr=1e-3/default_2026-03-11_ab1cd',0,X'7B2265706F6368223A302E302C22757064617465223A302C2273616D706C65223A302C226C6F73732F747261696E223A312E302C226E616E223A224E614E222C22696E66223A22496E66696E697479222C226E6573746564223A7B2261223A317D2C22747874223A226869227D','f38ad3f6a3a04514a1617fb1c429f822',NULL);
INSERT INTO "metrics" VALUES(2,'d71d6f2cbdae47d381c2d728ef42740f','2026-11-20T20:13:33.179567+00:00','drivaer--lr=1e-3/default_2026-03-11_ab1cd',1,X'7B2265706F6368223A302E352C22757064617465223A31302C2273616D706C65223A38302C226C6F73732F747261696E223A302E352C226E616E223A224E614E222C22696E66223A22496E66696E697479222C226E6573746564223A7B2261223A317D2C22747874223A226869227D','4ff12cdcbf3844f3af9f920b02f1c3c7',NULL);
INSERT INTO "metrics" VALUES(3,'d71d6f2cbdae47d381c2d728ef42740f','2026-11-20T20:13:33.179567+00:00','drivaer--lr=1e-3/default_2026-03-11_ab1cd',2,X'7B2265706F6368223A312E302C22757064617465223A32302C2273616D706C65223A3136302C226C6F73732F747261696E223A302E333333333333333333333333333333332C226E616E223A224E614E222C22696E66223A22496E66696E697479222C226E6573746564223A7B2261223A317D2C22747874223A226869227D','85bde18ebf704985afab7da13d5a638d',NULL);
INSERT INTO "metrics" VALUES(4,'d71d6f2cbdae47d381c2d728ef42740f','2026-11-20T20:13:33.179567+00:00','drivaer--lr=1e-3/default_2026-03-11_ab1cd',3,X'7B2265706F6368223A312E352C22757064617465223A33302C2273616D706C65223A3234302C226C6F73732F747261696E223A302E32352C226E616E223A224E614E222C22696E66223A22496E66696E697479222C226E6573746564223A7B2261223A317D2C22747874223A226869227D','e237a38bd4c347bd9497b35b7baefb93',NULL);
INSERT INTO "metrics" VALUES(5,'d71d6f2cbdae47d381c2d728ef42740f','2026-11-20T20:13:33.179567+00:00','drivaer--lr=1e-3/default_2026-03-11_ab1cd',4,X'7B2265706F6368223A322E302C22757064617465223A34302C2273616D706C65223A3332302C226C6F73732F747261696E223A302E322C226E616E223A224E614E222C22696E66223A22496E66696E697479222C226E6573746564223A7B2261223A317D2C22747874223A226869227D','d904792be88a422ba1f14e9a144147ab',NULL);
INSERT INTO "metrics" VALUES(6,'d71d6f2cbdae47d381c2d728ef42740f','2026-11-20T20:13:33.179567+00:00','drivaer--lr=1e-3/default_2026-03-11_ab1cd',100,X'7B2273746570706564223A312E307D','0adf388ebe9f4f9689331165fef8ee92',NULL);
INSERT INTO "metrics" VALUES(7,'d71d6f2cbdae47d381c2d728ef42740f','2026-11-20T20:13:33.179567+00:00','drivaer--lr=1e-3/default_2026-03-11_ab1cd',101,X'7B22696D67223A7B225F74797065223A22747261636B696F2E696D616765222C2266696C655F70617468223A226E6F65746865722D64656D6F2F647269766165722D2D6C723D31652D332F64656661756C745F323032362D30332D31315F61623163642F3130312F65316435373366382D646661652D343365642D623266372D3062663263646432613361632E706E67222C2263617074696F6E223A2263227D2C22746162223A7B225F74797065223A22747261636B696F2E7461626C65222C225F76616C7565223A5B7B2261223A317D5D7D2C2268697374223A7B225F74797065223A22747261636B696F2E686973746F6772616D222C2262696E73223A5B312E302C312E30333132352C312E303632352C312E30393337352C312E3132352C312E31353632352C312E313837352C312E32313837352C312E32352C312E32383132352C312E333132352C312E33343337352C312E3337352C312E34303632352C312E343337352C312E34363837352C312E352C312E35333132352C312E353632352C312E35393337352C312E3632352C312E36353632352C312E363837352C312E37313837352C312E37352C312E37383132352C312E383132352C312E38343337352C312E3837352C312E39303632352C312E393337352C312E39363837352C322E302C322E30333132352C322E303632352C322E30393337352C322E3132352C322E31353632352C322E313837352C322E32313837352C322E32352C322E32383132352C322E333132352C322E33343337352C322E3337352C322E34303632352C322E343337352C322E34363837352C322E352C322E35333132352C322E353632352C322E35393337352C322E3632352C322E36353632352C322E363837352C322E37313837352C322E37352C322E37383132352C322E383132352C322E38343337352C322E3837352C322E39303632352C322E393337352C322E39363837352C332E305D2C2276616C756573223A5B312C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C312C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C302C315D7D7D','0eacaaec8c3d41a285b54a00bbdac82c',NULL);
INSERT INTO "metrics" VALUES(8,'d71d6f2cbdae47d381c2d728ef42740f','2026-11-20T20:13:33.190396+00:00','drivaer--lr=1e-3/default_2026-03-11_ab1cd',102,X'7B22757064617465223A3230302C226C6F73732F747261696E223A302E30317D','6635704570f94c9e89966f162b8b5831',NULL);
CREATE TABLE pending_uploads (
                        id INTEGER PRIMARY KEY AUTOINCREMENT,
                        space_id TEXT NOT NULL,
                        run_id TEXT,
                        run_name TEXT,
                        step INTEGER,
                        file_path TEXT NOT NULL,
                        relative_path TEXT,
                        created_at TEXT NOT NULL
                    , kind TEXT NOT NULL DEFAULT 'media', digest TEXT);
CREATE TABLE project_metadata (
                        key TEXT PRIMARY KEY,
                        value TEXT NOT NULL
                    );
CREATE TABLE run_artifact_links (
                        id INTEGER PRIMARY KEY AUTOINCREMENT,
                        run_id TEXT,
                        run_name TEXT,
                        run_project TEXT,
                        artifact_version_id INTEGER NOT NULL REFERENCES artifact_versions(id),
                        direction TEXT NOT NULL CHECK(direction IN ('input', 'output')),
                        created_at TEXT NOT NULL
                    );
INSERT INTO "run_artifact_links" VALUES(1,'d71d6f2cbdae47d381c2d728ef42740f','drivaer--lr=1e-3/default_2026-03-11_ab1cd',NULL,1,'output','2026-11-20T20:13:33.177765+00:00');
CREATE TABLE system_metrics (
                        id INTEGER PRIMARY KEY AUTOINCREMENT,
                        run_id TEXT NOT NULL,
                        timestamp TEXT NOT NULL,
                        run_name TEXT NOT NULL,
                        metrics TEXT NOT NULL
                    , log_id TEXT, space_id TEXT);
CREATE TABLE traces (
                        id TEXT PRIMARY KEY,
                        run_id TEXT NOT NULL,
                        timestamp TEXT NOT NULL,
                        run_name TEXT NOT NULL,
                        step INTEGER NOT NULL,
                        key TEXT NOT NULL,
                        trace_index INTEGER,
                        messages TEXT NOT NULL,
                        metadata TEXT NOT NULL,
                        search_text TEXT NOT NULL,
                        log_id TEXT,
                        space_id TEXT,
                        spans TEXT NOT NULL DEFAULT '[]'
                    );
CREATE INDEX idx_run_artifact_links_run
                    ON run_artifact_links(run_id, run_name)
                    ;
CREATE INDEX idx_run_artifact_links_name
                    ON run_artifact_links(run_name, run_id)
                    ;
CREATE INDEX idx_run_artifact_links_version
                    ON run_artifact_links(artifact_version_id)
                    ;
CREATE INDEX idx_run_artifact_links_project_run
                    ON run_artifact_links(run_project, run_id, run_name);
CREATE INDEX idx_external_artifact_links_run
                    ON external_run_artifact_links(run_id, run_name);
CREATE UNIQUE INDEX idx_external_artifact_links_unique
                    ON external_run_artifact_links(
                        COALESCE(run_id, ''), COALESCE(run_name, ''),
                        source_project, source_version_id, direction
                    );
CREATE INDEX idx_pending_uploads_kind
                    ON pending_uploads(kind)
                    ;
CREATE INDEX idx_metrics_run_step
                    ON metrics(run_id, step)
                    ;
CREATE INDEX idx_metrics_run_timestamp
                    ON metrics(run_id, timestamp)
                    ;
CREATE INDEX idx_configs_run_name
                    ON configs(run_name)
                    ;
CREATE INDEX idx_system_metrics_run_timestamp
                    ON system_metrics(run_id, timestamp)
                    ;
CREATE INDEX idx_traces_run_step
                    ON traces(run_id, step)
                    ;
CREATE INDEX idx_traces_run_timestamp
                    ON traces(run_id, timestamp)
                    ;
CREATE INDEX idx_traces_search
                    ON traces(search_text)
                    ;
CREATE INDEX idx_alerts_run
                    ON alerts(run_id)
                    ;
CREATE INDEX idx_alerts_timestamp
                    ON alerts(timestamp)
                    ;
CREATE UNIQUE INDEX idx_alerts_alert_id
                    ON alerts(alert_id) WHERE alert_id IS NOT NULL
                    ;
CREATE UNIQUE INDEX idx_metrics_log_id
                        ON metrics(log_id) WHERE log_id IS NOT NULL;
CREATE INDEX idx_metrics_pending
                        ON metrics(space_id) WHERE space_id IS NOT NULL;
CREATE UNIQUE INDEX idx_system_metrics_log_id
                        ON system_metrics(log_id) WHERE log_id IS NOT NULL;
CREATE INDEX idx_system_metrics_pending
                        ON system_metrics(space_id) WHERE space_id IS NOT NULL;
CREATE INDEX idx_metrics_run_record
                        ON metrics(run_id, run_name, timestamp);
CREATE UNIQUE INDEX idx_run_artifact_links_unique
                    ON run_artifact_links(
                        COALESCE(run_project, ''), COALESCE(run_id, ''),
                        COALESCE(run_name, ''), artifact_version_id, direction
                    );
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('artifacts',1);
INSERT INTO "sqlite_sequence" VALUES('artifact_versions',1);
INSERT INTO "sqlite_sequence" VALUES('run_artifact_links',1);
INSERT INTO "sqlite_sequence" VALUES('metrics',8);
INSERT INTO "sqlite_sequence" VALUES('configs',2);
INSERT INTO "sqlite_sequence" VALUES('alerts',1);
COMMIT;
