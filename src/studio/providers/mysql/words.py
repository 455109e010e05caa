"""The words that the guard of `mysql` knows: statements that write, and functions by what they do."""

from __future__ import annotations

ROW_CHANGES = frozenset({"insert", "replace", "update", "delete"})
WRITES = ROW_CHANGES | frozenset(
    """
    call do create alter drop truncate rename grant revoke analyze optimize check repair checksum
    """.split()  # noqa: SIM905 - words read best as words
)
_CONTROL = "transaction control; use the transaction operation for several statements"
_SESSION = "statements about the session; it is shared, so its settings stay as they are"
_TEXT = "SQL in a text; give the statement itself"
_LOCKS = "LOCK TABLES and UNLOCK TABLES"
_SERVER = "statements that run the server itself"
NOT_EXECUTED = {
    "begin": _CONTROL, "start": _CONTROL, "commit": _CONTROL, "rollback": _CONTROL, "savepoint": _CONTROL,
    "release": _CONTROL, "xa": _CONTROL, "set": _SESSION, "use": _SESSION, "reset": _SERVER,
    "prepare": _TEXT, "execute": _TEXT, "deallocate": _TEXT, "lock": _LOCKS, "unlock": _LOCKS,
    "handler": "HANDLER", "load": "LOAD, which reads files", "kill": "KILL", "flush": _SERVER, "purge": _SERVER,
    "change": _SERVER, "stop": _SERVER, "shutdown": _SERVER, "restart": _SERVER, "install": _SERVER,
    "uninstall": _SERVER, "clone": _SERVER, "binlog": _SERVER, "backup": _SERVER, "import": _SERVER,
    "cache": _SERVER, "signal": _CONTROL, "resignal": _CONTROL, "get": _CONTROL, "help": "HELP",
}  # fmt: skip
"""First words that no operation takes, with the reason."""

REFUSED = frozenset(
    """
    benchmark get_lock release_lock release_all_locks load_file last_insert_id nextval setval lastval
    master_pos_wait source_pos_wait master_gtid_wait wait_for_executed_gtid_set wait_until_sql_thread_after_gtids
    sys_exec sys_eval sys_get sys_set http_get http_post http_put http_delete mroonga_command
    wsrep_sync_wait_upto_gtid calflushcache calsettrace calsetparms calonlinealter calremovepartitions
    caldisablepartitions calenablepartitions set_firewall_mode set_firewall_group_mode read_firewall_users
    read_firewall_whitelist read_firewall_groups read_firewall_group_allowlist normalize_statement_digest
    gen_dictionary_load gen_dictionary_drop mask_dictionary_term_add mask_dictionary_term_remove mask_dictionary_remove
    """.split()  # noqa: SIM905 - words read best as words
)
REFUSED_PREFIXES = (
    "spider_", "group_replication_", "asynchronous_connection_failover_", "audit_log_", "audit_api_", "keyring_",
    "version_tokens_", "service_get_", "service_release_", "lib_mysqludf_", "mysql_firewall_", "firewall_",
    "telemetry_", "mysql_query_attribute_", "plugin_",
)  # fmt: skip
"""Functions that lock, wait, reach files or other servers, change settings, or run text as SQL."""

PLAIN = frozenset(
    """
    abs acos adddate addtime all and any as ascii asin atan atan2 avg between bigint binary bit bit_and bit_count
    bit_length bit_or bit_xor by case cast ceil ceiling char char_length character_length check coalesce collation
    concat concat_ws conv convert convert_tz cos cot count crc32 cume_dist curdate current_date current_time
    current_timestamp curtime database date date_add date_format date_sub datediff datetime day dayname dayofmonth
    dayofweek dayofyear decimal degrees dense_rank distinct div elt else end except exists exp export_set extract field
    find_in_set first_value float floor format from from_base64 from_days from_unixtime from_utc_timestamp
    get_format greatest group_concat grouping having hex hour if ifnull in index inet6_aton inet6_ntoa inet_aton
    inet_ntoa insert instr int intersect interval is isnull join json_array json_array_append json_array_insert
    json_arrayagg json_compact json_contains json_contains_path json_depth json_detailed json_exists json_extract
    json_insert json_keys json_length json_merge_patch json_merge_preserve json_object json_objectagg json_pretty
    json_query json_quote json_remove json_replace json_search json_set json_table json_type json_unquote json_valid
    json_value key lag last_day last_value lateral lcase lead least left length like ln localtime localtimestamp locate
    log log10 log2 lower lpad ltrim makedate maketime max md5 median microsecond mid min minute mod month monthname
    natural_sort_key not now nth_value ntile nullif numeric oct octet_length on or ord over partition percent_rank
    percentile_cont percentile_disc period_add period_diff pi position pow power quarter quote radians rand rank regexp
    regexp_instr regexp_like regexp_replace regexp_substr repeat replace reverse right rlike round row row_number rpad
    rtrim sec_to_time second select separator session_user sha sha1 sha2 sign sin sleep soundex space sqrt std stddev
    stddev_pop stddev_samp str_to_date strcmp subdate substr substring substring_index subtime sum sysdate tan then time
    time_format time_to_sec timediff timestamp timestampadd timestampdiff to_base64 to_days to_seconds trim truncate
    ucase unhex union unix_timestamp upper user using utc_date utc_time utc_timestamp uuid uuid_short value values
    var_pop var_samp varchar variance version week weekday weekofyear when where within xor year yearweek
    """.split()  # noqa: SIM905 - words read best as words
)
"""Functions, and words that may stand before a parenthesis, that leave nothing behind in a session."""
