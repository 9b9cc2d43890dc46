//! How vectors are searched: exactly where that is quick, else by the HNSW index, and always scored again here.

use std::collections::HashMap;

use bifocal_kernels::scan::scan_scores;
use pgvector::{HalfVector, Vector};
use postgres::Transaction;
use postgres::types::ToSql;

use crate::error::StoreError;
use crate::filter::Filter;
use crate::scores::ScoreStats;
use crate::store::{Found, Hit, SearchOptions};

use super::address::Address;
use super::connection::Failure;
use super::filter::Condition;
use super::read::{self, Chosen};
use super::schema;

/// Candidates beyond what is wanted: the server's order differs in the last bits from that of the scores here.
const SPARE: usize = 16;
/// The index is asked for so many times more, since several of its vectors may be of one item.
const GROWTH: usize = 4;
/// Of a result that is a larger part than this of what there is, the index would have to visit nearly everything.
const SHARE: u64 = 20;
/// How many candidates pgvector's index keeps at least and at most while it searches.
const EF_SEARCH: (usize, usize) = (100, 1000);

/// Which items may be found, and how many they are.
struct Scope {
    /// Over `items i`.
    condition: Condition,
    matched: u64,
    /// Whether the condition is one that the index may be asked with.
    may_use_index: bool,
}

/// What an item's best vector is.
struct Best {
    id: i64,
    score: f32,
    part: usize,
}

/// Searches for unit vectors, all in one snapshot.
pub(super) fn search(
    tx: &mut Transaction,
    address: &Address,
    queries: &[Vec<f32>],
    options: &SearchOptions,
    items: u64,
) -> Result<Vec<Found>, Failure> {
    let scope = scope(tx, address, options, items)?;
    let dim = queries.first().map_or(0, Vec::len);
    // The k-th best of fewer than that is all of them.
    let k = options.k.min(usize::try_from(scope.matched).unwrap_or(usize::MAX));
    let few = address.exact_until.max((k as u64).saturating_mul(SHARE));
    let uses_index = !options.exact && scope.may_use_index && scope.matched > few && schema::is_indexed(tx, address)?;
    let mut found = Vec::with_capacity(queries.len());
    for query in queries {
        let mut best = Vec::new();
        let mut scores = None;
        if uses_index {
            let ids = by_index(tx, address, &scope, query, k)?;
            best = rescored(tx, address, &ids, query, dim)?;
        }
        // Whatever the index left out, the result is never shorter than it could be.
        if best.len() < k || !uses_index {
            let all = scope.matched <= address.exact_until;
            let (ids, stats) = exactly(tx, address, &scope, query, k, all)?;
            best = rescored(tx, address, &ids, query, dim)?;
            scores = stats;
        }
        best.truncate(k);
        best.retain(|best| options.min_score.is_none_or(|least| best.score >= least));
        found.push(Found {
            hits: hits(tx, address, &best)?,
            matched: scope.matched,
            scores,
        });
    }
    Ok(found)
}

/// How many items satisfy a filter.
pub(super) fn matching(tx: &mut Transaction, address: &Address, filter: &Filter, items: u64) -> Result<u64, Failure> {
    let options = SearchOptions {
        filter: Some(filter.clone()),
        ..SearchOptions::default()
    };
    Ok(scope(tx, address, &options, items)?.matched)
}

fn scope(tx: &mut Transaction, address: &Address, options: &SearchOptions, items: u64) -> Result<Scope, Failure> {
    let mut chosen = Chosen::new(tx, address, options.filter.as_ref())?;
    let without: Vec<String> = options
        .without
        .iter()
        .filter(|key| read::is_key(key))
        .cloned()
        .collect();
    if !without.is_empty() {
        let name = chosen.condition.parameter(without);
        chosen.condition.and(&format!("i.key <> ALL({name})"));
    }
    if chosen.is_open() {
        let ids = chosen.ids(tx, address)?;
        let matched = ids.len() as u64;
        let mut condition = Condition::default();
        let name = condition.parameter(ids);
        condition.sql = format!("i.id = ANY({name})");
        return Ok(Scope {
            condition,
            matched,
            may_use_index: false,
        });
    }
    let condition = chosen.condition;
    let matched = if options.filter.is_none() && options.without.is_empty() {
        items
    } else {
        let count = format!("SELECT count(*) FROM @items i WHERE {}", condition.sql);
        let count: i64 = tx.query_one(&address.sql(&count), &condition.parameters())?.get(0);
        u64::try_from(count).unwrap_or(0)
    };
    Ok(Scope {
        condition,
        matched,
        may_use_index: true,
    })
}

/// The items with the best vectors, by their order there; with `all`, also how all scores lie.
fn exactly(
    tx: &mut Transaction,
    address: &Address,
    scope: &Scope,
    query: &[f32],
    k: usize,
    all: bool,
) -> Result<(Vec<i64>, Option<ScoreStats>), Failure> {
    let next = scope.condition.parameters.len() + 1;
    let limit = if all {
        String::new()
    } else {
        format!("LIMIT ${}", next + 1)
    };
    // As `vector`, the server computes with the query's own numbers, not with halves of them.
    let select = format!(
        "SELECT v.item, min(v.vector::vector <#> ${next}) FROM @vectors v JOIN @items i ON i.id = v.item \
         WHERE {} GROUP BY v.item ORDER BY 2, 1 {limit}",
        scope.condition.sql
    );
    let query = Vector::from(query.to_vec());
    let wanted = k.saturating_add(SPARE);
    let most = i64::try_from(wanted).unwrap_or(i64::MAX);
    let mut parameters: Vec<&(dyn ToSql + Sync)> = scope.condition.parameters();
    parameters.push(&query);
    if !all {
        parameters.push(&most);
    }
    let rows = tx.query(&address.sql(&select), &parameters)?;
    let mut ids = Vec::with_capacity(wanted.min(rows.len()));
    for row in rows.iter().take(wanted) {
        ids.push(read::value(row, 0, address)?);
    }
    if !all {
        return Ok((ids, None));
    }
    let distances: Result<Vec<f64>, StoreError> = rows.iter().map(|row| read::value(row, 1, address)).collect();
    // The server gives the negative inner product, so that less is nearer.
    Ok((ids, Some(ScoreStats::of(distances?.into_iter().map(|d| -d as f32)))))
}

/// The items whose vectors the index finds first. They may be fewer than wanted.
fn by_index(
    tx: &mut Transaction,
    address: &Address,
    scope: &Scope,
    query: &[f32],
    k: usize,
) -> Result<Vec<i64>, Failure> {
    let next = scope.condition.parameters.len() + 1;
    let is_all = scope.condition.sql == "true";
    let join = if is_all { "" } else { "JOIN @items i ON i.id = v.item" };
    let select = format!(
        "SELECT v.item FROM @vectors v {join} WHERE {} ORDER BY v.vector <#> ${next} LIMIT ${}",
        scope.condition.sql,
        next + 1
    );
    let query = HalfVector::from_f32_slice(query);
    let wanted = k.saturating_add(SPARE);
    let mut most = wanted;
    loop {
        let ef = most.saturating_mul(2).clamp(EF_SEARCH.0, EF_SEARCH.1);
        tx.batch_execute(&format!(
            "SET LOCAL hnsw.iterative_scan = strict_order; SET LOCAL hnsw.ef_search = {ef}"
        ))?;
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = scope.condition.parameters();
        parameters.push(&query);
        parameters.push(&limit);
        let rows = tx.query(&address.sql(&select), &parameters)?;
        let mut ids = Vec::with_capacity(wanted);
        let mut seen = std::collections::HashSet::new();
        for row in &rows {
            let id: i64 = read::value(row, 0, address)?;
            if seen.insert(id) {
                ids.push(id);
            }
        }
        let is_end = rows.len() < most;
        if ids.len() >= wanted || is_end {
            ids.truncate(wanted);
            return Ok(ids);
        }
        most = most.saturating_mul(GROWTH);
    }
}

/// Scores from the stored halves, computed as the local store does; best first, equal ones in the order of storing.
fn rescored(
    tx: &mut Transaction,
    address: &Address,
    ids: &[i64],
    query: &[f32],
    dim: usize,
) -> Result<Vec<Best>, Failure> {
    let mut found = Vec::with_capacity(ids.len());
    for (id, rows) in read::vectors(tx, address, ids, dim)? {
        let mut scores = vec![0.0f32; rows.len() / dim];
        scan_scores(&rows, dim, query, &mut scores);
        let mut best = Best {
            id,
            score: f32::NEG_INFINITY,
            part: 0,
        };
        for (part, &score) in scores.iter().enumerate() {
            if score > best.score {
                (best.score, best.part) = (score, part);
            }
        }
        found.push(best);
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
    Ok(found)
}

fn hits(tx: &mut Transaction, address: &Address, best: &[Best]) -> Result<Vec<Hit>, Failure> {
    const SELECT: &str =
        "SELECT i.key, i.size, i.modified_ns, i.hash, i.metadata, i.id FROM @items i WHERE i.id = ANY($1)";
    if best.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i64> = best.iter().map(|b| b.id).collect();
    let mut items = HashMap::new();
    for row in tx.query(&address.sql(SELECT), &[&ids])? {
        items.insert(read::value::<i64>(&row, 5, address)?, read::item(&row, address)?);
    }
    let mut hits = Vec::with_capacity(best.len());
    for best in best {
        let item = items
            .remove(&best.id)
            .ok_or_else(|| read::corrupt(address, format!("the vectors of item {} have no item", best.id)))?;
        hits.push(Hit {
            key: item.file.key,
            score: best.score,
            part: best.part,
            size: item.file.size,
            modified_ns: item.file.modified_ns,
            metadata: item.metadata,
        });
    }
    Ok(hits)
}
