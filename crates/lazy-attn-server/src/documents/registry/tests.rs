use std::collections::BTreeSet;

use super::*;

const RED: TenantSalt = TenantSalt([1; 32]);
const BLUE: TenantSalt = TenantSalt([2; 32]);

/// So many seconds after some start.
fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn info(index: u8, num_tokens: u32) -> DocumentInfo {
    let tokens = (0..num_tokens).map(TokenId).collect();
    DocumentInfo { key: SegmentKey::from_bytes([index; 32]), tokens, num_blocks: 1, kv_bytes: 64 }
}

fn plain(registry: &Registry, tenant: TenantSalt, index: u8) -> StoredDocument {
    registry.put(tenant, &info(index, 10), NewDocument::default(), at(0)).unwrap().document
}

fn with_ttl(seconds: u64) -> NewDocument {
    NewDocument { ttl: Some(Duration::from_secs(seconds)), ..NewDocument::default() }
}

fn total(registry: &Registry, tenant: TenantSalt, now: SystemTime) -> usize {
    registry.list(tenant, &PageQuery::default(), now).unwrap().total
}

/// What the registry counts is what it holds.
fn check_sums(registry: &Registry) {
    let state = registry.state.lock().unwrap();
    let mut total_bytes = 0;
    for tenant in state.tenants.values() {
        let documents = || tenant.documents.values();
        assert!(!tenant.documents.is_empty());
        assert_eq!(tenant.num_bytes, documents().map(StoredDocument::num_bytes).sum::<u64>());
        let pinned = documents().filter(|document| document.pin != PinState::Unpinned);
        assert_eq!(tenant.pinned_tokens, pinned.map(StoredDocument::num_tokens).sum::<u64>());
        total_bytes += tenant.num_bytes;
    }
    assert_eq!(state.total_bytes, total_bytes);
    let expiring = state.tenants.values().flat_map(|tenant| tenant.documents.values());
    let expiries: BTreeSet<(SystemTime, u64)> =
        expiring.filter_map(|document| Some((document.expires?, document.serial))).collect();
    assert_eq!(state.expiries, expiries);
    assert_eq!(state.expiring.len(), expiries.len());
}

#[test]
fn putting_again_keeps_the_document_and_replaces_only_what_is_given() {
    let registry = Registry::new(DocumentLimits::default());
    let labels = BTreeMap::from([("site".to_owned(), "north".to_owned())]);
    let named = NewDocument { display_name: "Harbour".into(), labels: labels.clone(), ttl: None };
    let first = registry.put(RED, &info(1, 10), named, at(0)).unwrap();
    assert!(first.created);
    let again = registry.put(RED, &info(1, 10), NewDocument::default(), at(5)).unwrap();
    assert_eq!(again, Put { document: first.document.clone(), created: false });
    let renamed = NewDocument { display_name: "Pier".into(), ..NewDocument::default() };
    let renamed = registry.put(RED, &info(1, 10), renamed, at(6)).unwrap().document;
    assert_eq!((renamed.display_name.as_str(), &renamed.labels), ("Pier", &labels));
    assert_eq!((renamed.created, renamed.serial), (first.document.created, first.document.serial));
    assert_ne!(renamed.etag(), first.document.etag());
    check_sums(&registry);
}

#[test]
fn tenants_do_not_see_each_other() {
    let registry = Registry::new(DocumentLimits::default());
    let document = plain(&registry, RED, 1);
    let missing = DocumentError::NotFound { name: document.name() };
    assert_eq!(registry.get(BLUE, &document.name(), at(0)), Err(missing.clone()));
    assert_eq!(registry.use_document(BLUE, &document.name(), at(0)), Err(missing.clone()));
    assert_eq!(registry.delete(BLUE, &document.name(), "", at(0)), Err(missing.clone()));
    assert_eq!(registry.update(BLUE, &document.name(), "", Change::default(), at(0)), Err(missing.clone()));
    assert_eq!(registry.begin_pin(BLUE, document.key, at(0)), Err(missing));
    assert_eq!(registry.known(BLUE, &[document.key], at(0)), []);
    assert_eq!(registry.known(RED, &[document.key], at(0)), [document.key]);
    assert_eq!((total(&registry, RED, at(0)), total(&registry, BLUE, at(0))), (1, 0));
}

#[test]
fn a_use_counts_and_leaves_the_etag() {
    let registry = Registry::new(DocumentLimits::default());
    let document = plain(&registry, RED, 1);
    assert_eq!(registry.use_document(RED, &document.name(), at(7)).unwrap(), document.tokens);
    let used = registry.get(RED, &document.name(), at(8)).unwrap();
    assert_eq!((used.use_count, used.last_used), (1, Some(at(7))));
    assert_eq!(used.etag(), document.etag());
}

#[test]
fn a_document_is_there_until_its_time_and_not_a_moment_longer() {
    let registry = Registry::new(DocumentLimits::default());
    let name = registry.put(RED, &info(1, 10), with_ttl(10), at(0)).unwrap().document.name();
    assert!(registry.get(RED, &name, at(9)).is_ok());
    // Putting it again with a time counts from then; without one nothing changes.
    registry.put(RED, &info(1, 10), with_ttl(10), at(9)).unwrap();
    registry.put(RED, &info(1, 10), NewDocument::default(), at(10)).unwrap();
    assert_eq!(registry.get(RED, &name, at(18)).unwrap().expires, Some(at(19)));
    check_sums(&registry);
    let gone = at(19);
    assert_eq!(registry.get(RED, &name, gone), Err(DocumentError::NotFound { name: name.clone() }));
    assert_eq!(total(&registry, RED, gone), 0);
    assert!(registry.put(RED, &info(1, 10), NewDocument::default(), gone).unwrap().created);
    let never = Change { expiry: Some(Expiry::Never), ..Change::default() };
    let timed = Change { expiry: Some(Expiry::At(at(30))), ..Change::default() };
    assert_eq!(registry.update(RED, &name, "", timed, gone).unwrap().expires, Some(at(30)));
    assert_eq!(registry.update(RED, &name, "", never, gone).unwrap().expires, None);
    assert!(registry.get(RED, &name, at(1 << 30)).is_ok());
    check_sums(&registry);
}

#[test]
fn the_default_time_is_for_those_who_name_none() {
    let default_ttl = Some(Duration::from_secs(5));
    let registry = Registry::new(DocumentLimits { default_ttl, ..DocumentLimits::default() });
    assert_eq!(plain(&registry, RED, 1).expires, Some(at(5)));
    let longer = registry.put(RED, &info(2, 10), with_ttl(50), at(0)).unwrap().document;
    assert_eq!(longer.expires, Some(at(50)));
    assert_eq!(total(&registry, RED, at(5)), 1);
}

#[test]
fn an_old_etag_changes_nothing() {
    let registry = Registry::new(DocumentLimits::default());
    let (name, old) = (plain(&registry, RED, 1).name(), plain(&registry, RED, 1).etag());
    let rename = |name: &str| Change { display_name: Some(name.to_owned()), ..Change::default() };
    let current = registry.update(RED, &name, &old, rename("first"), at(1)).unwrap().etag();
    let mismatch = DocumentError::EtagMismatch { name: name.clone(), given: old.clone(), current };
    assert_eq!(registry.update(RED, &name, &old, rename("second"), at(2)), Err(mismatch.clone()));
    assert_eq!(registry.delete(RED, &name, &old, at(2)), Err(mismatch));
    assert_eq!(registry.get(RED, &name, at(2)).unwrap().display_name, "first");
    let gone = registry.delete(RED, &name, "", at(2));
    assert_eq!((gone, total(&registry, RED, at(2))), (Ok(()), 0));
}

#[test]
fn every_bound_holds_and_says_its_numbers() {
    let size = {
        let registry = Registry::new(DocumentLimits::default());
        plain(&registry, RED, 1).num_bytes()
    };
    let limits = DocumentLimits {
        max_documents: 3,
        max_tenant_bytes: 2 * size,
        max_total_bytes: 3 * size,
        ..DocumentLimits::default()
    };
    let registry = Registry::new(limits);
    let quota = |what, needed, max| Err(DocumentError::Quota { what, needed, max });
    let put =
        |tenant, index| registry.put(tenant, &info(index, 10), NewDocument::default(), at(0)).map(|_| ());
    assert_eq!((put(RED, 1), put(RED, 2)), (Ok(()), Ok(())));
    assert_eq!(put(RED, 3), quota("retained bytes of the tenant", 3 * size, 2 * size));
    assert_eq!(put(RED, 2), Ok(()), "what is there may be put again");
    assert_eq!(put(BLUE, 1), Ok(()));
    assert_eq!(put(BLUE, 2), quota("retained bytes of all tenants", 4 * size, 3 * size));
    let name = name_of(&info(1, 10).key);
    let long = Change { display_name: Some("n".repeat(9)), ..Change::default() };
    let refused = registry.update(RED, &name, "", long, at(0)).map(|_| ());
    assert_eq!(refused, quota("retained bytes of the tenant", 2 * size + 9, 2 * size));
    check_sums(&registry);
    registry.delete(RED, &name, "", at(0)).unwrap();
    assert_eq!(put(BLUE, 2), Ok(()), "what is deleted makes room");
    let few = Registry::new(DocumentLimits { max_documents: 1, ..DocumentLimits::default() });
    plain(&few, RED, 1);
    let refused = few.put(RED, &info(2, 10), NewDocument::default(), at(0)).map(|_| ());
    assert_eq!(refused, quota("documents of the tenant", 2, 1));
    assert!(few.put(BLUE, &info(2, 10), NewDocument::default(), at(0)).is_ok());
}

#[test]
fn a_preview_says_what_a_put_would_and_changes_nothing() {
    let registry = Registry::new(DocumentLimits::default());
    let preview = |new| registry.preview(RED, &info(1, 10), new, at(0));
    let would = preview(NewDocument::default()).unwrap();
    assert!(would.created && total(&registry, RED, at(0)) == 0);
    let did = registry.put(RED, &info(1, 10), NewDocument::default(), at(0)).unwrap();
    assert_eq!((would.document.key, would.document.tokens), (did.document.key, did.document.tokens));
    let named = NewDocument { display_name: "n".repeat(1025), ..NewDocument::default() };
    assert!(matches!(preview(named), Err(DocumentError::Field { field, .. }) if field == "display_name"));
    let renamed = NewDocument { display_name: "Pier".into(), ..NewDocument::default() };
    let would = preview(renamed).unwrap();
    assert_eq!((would.created, would.document.display_name.as_str()), (false, "Pier"));
    assert_eq!(registry.get(RED, &would.document.name(), at(0)).unwrap().display_name, "");
}

#[test]
fn pins_count_from_the_wish_on_and_are_given_back_once() {
    let limits = DocumentLimits { max_pinned_tokens: 15, ..DocumentLimits::default() };
    let registry = Registry::new(limits);
    let (first, second) = (plain(&registry, RED, 1), plain(&registry, RED, 2));
    let pin = |key| registry.begin_pin(RED, key, at(0));
    assert_eq!(pin(first.key), Ok(PinStep::Pin));
    assert_eq!(pin(first.key), Ok(PinStep::Nothing), "one pin is on its way");
    let quota = DocumentError::Quota { what: "pinned tokens of the tenant", needed: 20, max: 15 };
    assert_eq!(pin(second.key), Err(quota));
    assert_eq!(registry.end_pin(RED, first.key, true, at(0)), PinStep::Nothing);
    assert_eq!(registry.get(RED, &first.name(), at(0)).unwrap().pin, PinState::Pinned);
    check_sums(&registry);
    assert_eq!(registry.unpin(RED, first.key, at(0)), Ok(PinStep::Unpin));
    assert_eq!(registry.unpin(RED, first.key, at(0)), Ok(PinStep::Nothing));
    // The engine says no: the tokens are free again.
    assert_eq!(pin(second.key), Ok(PinStep::Pin));
    assert_eq!(registry.end_pin(RED, second.key, false, at(0)), PinStep::Nothing);
    check_sums(&registry);
    // Withdrawn on its way: the pin that arrives is given back.
    assert_eq!(pin(second.key), Ok(PinStep::Pin));
    assert_eq!(registry.unpin(RED, second.key, at(0)), Ok(PinStep::Nothing));
    assert_eq!(registry.end_pin(RED, second.key, true, at(0)), PinStep::Unpin);
    check_sums(&registry);
}

#[test]
fn the_pin_of_a_document_that_goes_is_given_back_however_it_goes() {
    let registry = Registry::new(DocumentLimits::default());
    let deleted = plain(&registry, RED, 1);
    let expiring = registry.put(RED, &info(2, 10), with_ttl(10), at(0)).unwrap().document;
    for key in [deleted.key, expiring.key] {
        registry.begin_pin(RED, key, at(0)).unwrap();
        registry.end_pin(RED, key, true, at(0));
    }
    assert_eq!(registry.sweep(at(9)), []);
    registry.delete(RED, &deleted.name(), "", at(9)).unwrap();
    assert_eq!(registry.sweep(at(9)), [deleted.key]);
    assert_eq!(registry.sweep(at(10)), [expiring.key]);
    assert_eq!(registry.sweep(at(11)), []);
    // Gone while its pin was on its way.
    let third = plain(&registry, RED, 3);
    registry.begin_pin(RED, third.key, at(0)).unwrap();
    registry.delete(RED, &third.name(), "", at(0)).unwrap();
    assert_eq!(registry.end_pin(RED, third.key, true, at(0)), PinStep::Unpin);
    assert_eq!(registry.sweep(at(11)), []);
    check_sums(&registry);
}

#[test]
fn whoever_mirrors_the_registry_hears_of_every_coming_and_going() {
    let registry = Registry::new(DocumentLimits::default());
    let mut membership = registry.membership();
    let mut heard = || {
        let heard = membership.has_changed().unwrap();
        membership.mark_unchanged();
        heard
    };
    assert!(!heard());
    let document = registry.put(RED, &info(1, 10), with_ttl(10), at(0)).unwrap().document;
    assert!(heard());
    registry.use_document(RED, &document.name(), at(1)).unwrap();
    registry.put(RED, &info(1, 10), NewDocument::default(), at(1)).unwrap();
    assert!(!heard(), "nothing came or went");
    assert_eq!(registry.sweep(at(10)), []);
    assert!(heard(), "it expired");
    plain(&registry, RED, 2);
    registry.delete(RED, &name_of(&info(2, 10).key), "", at(11)).unwrap();
    assert!(heard());
}
